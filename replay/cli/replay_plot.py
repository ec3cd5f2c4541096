"""`--plot`: a picture of a replay as SVG: records over event time, and by partition.

The SVG is written by hand: a plotting library would be a large dependency for two bar charts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from ...topics.durable_files import replace_file
from ...topics.errors import Usage
from ...topics.printable import printable
from ..pipeline.dry_run import DryRun
from ..time_text import format_duration_ms, format_time

__all__ = ["checked_plot", "draw", "write_plot"]

_WIDTH, _HEIGHT = 900, 480
_LEFT, _RIGHT = 80, 20
_INK, _BARS, _FAINT = "#24292f", "#2f6f8f", "#d0d7de"


def checked_plot(path: Path) -> None:
    """Check the name of the picture, so that a wrong one is reported before hours of work and not after.

    Raises:
        Usage: the name does not end with `.svg`.
    """
    if path.suffix.lower() != ".svg":
        raise Usage(f"--plot {path}: pictures are SVG", hint=f"--plot {path.with_suffix('.svg')}; browsers show SVG")


def write_plot(dry_run: DryRun, title: str, path: Path) -> None:
    """Write the picture; a file at this path is replaced atomically."""
    replace_file(path, draw(dry_run, title).encode())


def draw(dry_run: DryRun, title: str) -> str:
    """Return the picture as SVG: at the top records over event time, if they have times; below, by partition."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="{_INK}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 24, f"{title}: {dry_run.records:,} records", size=16),
    ]
    times = dry_run.over_time.counts()
    if times:
        width_ms = dry_run.over_time.width_ms
        first, last = times[0][0], times[-1][0] + width_ms
        bars = [((at - first) / (last - first), width_ms / (last - first), count) for at, count in times]
        parts += _bars(bars, 50, 190, f"records per {format_duration_ms(width_ms)} of event time")
        begin_ms, end_ms = dry_run.over_time.range_ms
        parts.append(_text(_LEFT, 258, format_time(begin_ms)))
        parts.append(_text(_WIDTH - _RIGHT, 258, format_time(end_ms), anchor="end"))
    else:
        parts.append(_text(_LEFT, 140, "records have no times"))
    many = max(dry_run.partitions, default=0) + 1
    counts = [dry_run.partitions.get(partition, 0) for partition in range(many)]
    parts += _bars([(p / many, 0.9 / many, count) for p, count in enumerate(counts)], 290, 140, "records by partition")
    step = -(-many // 24)
    for partition in range(0, many, step):
        at = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (partition + 0.45) / many
        parts.append(_text(at, 448, str(partition), anchor="middle"))
    return "\n".join([*parts, "</svg>\n"])


def _bars(bars: Sequence[tuple[float, float, int]], top: float, height: float, title: str) -> list[str]:
    """Return the SVG elements of a bar chart with an axis of counts.

    Args:
        bars: (begin, width, count) of each bar, begin and width as fractions of the chart's width.
        top: upper edge of the chart; `height` is its height.
    """
    inner = _WIDTH - _LEFT - _RIGHT
    highest = max((count for _, _, count in bars), default=0) or 1
    found = [_text(_LEFT, top - 6, title)]
    for part in (0.0, 0.5, 1.0):
        y = top + height * (1 - part)
        found.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_FAINT}"/>')
        found.append(_text(_LEFT - 8, y + 4, f"{highest * part:,.0f}", anchor="end"))
    for begin, width, count in bars:
        tall, wide = height * count / highest, max(0.5, inner * width)
        found.append(
            f'<rect x="{_LEFT + inner * begin:.2f}" y="{top + height - tall:.2f}" width="{wide:.2f}" '
            f'height="{tall:.2f}" fill="{_BARS}"><title>{count:,}</title></rect>'
        )
    return found


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    text = escape(printable(text, one_line=True))
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{text}</text>'
