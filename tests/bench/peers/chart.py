"""Draws a chart of rates: a bar of the median and a line of the range for each contender.

SVG, written by ourselves.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

from .standings import Field

__all__ = ["draw", "write_chart"]

_WIDTH = 920
_LEFT, _RIGHT = 270, 200
_BAR, _STEP, _CAP = 20, 32, 8
_INK, _OURS, _THEIRS, _FAINT, _QUIET = "#24292f", "#2f6f8f", "#b4bec8", "#d0d7de", "#656d76"
_BOLD = ' font-weight="600"'
_FONT = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"


def write_chart(fields: list[Field], note: str, path: Path) -> None:
    """Write the picture, to a temporary file that is renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(draw(fields, note), encoding="utf-8")
    new.replace(path)


def draw(fields: list[Field], note: str) -> str:
    """The picture as SVG: field under field, each with a scale of its own, the fastest first; `note` below."""
    parts: list[str] = []
    top = 12.0
    for field in fields:
        if field.figures:
            found, top = _field(field, top)
            parts += found
    height = top + 22
    parts.append(_text(16, top + 6, note, size=11, fill=_QUIET))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" '
        f'height="{height:.0f}" font-family="{_FONT}" font-size="13" fill="{_INK}">'
    )
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{height:.0f}" fill="white"/>', *parts, "</svg>\n"])


def _field(field: Field, top: float) -> tuple[list[str], float]:
    """One field's bars from `top` on, and where it ends."""
    found = [_text(16, top + 18, field.title[:1].upper() + field.title[1:], size=15, bold=True)]
    found.append(_text(16, top + 36, f"{field.unit} a second", size=12, fill=_QUIET))
    ranks = sorted((who for who in field.contenders if who.key in field.figures), key=lambda w: -field.rate(w.key))
    most = max(field.range(who.key).high for who in ranks)
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    first = top + 48
    last = first + _STEP * len(ranks)
    for place, who in enumerate(ranks):
        y, rates = first + _STEP * place + (_STEP - _BAR) / 2, field.range(who.key)
        wide = max(1.0, scale * rates.median)
        found.append(_text(_LEFT - 10, y + 15, who.name, anchor="end", bold=who.ours))
        found.append(
            f'<rect x="{_LEFT}" y="{y:.1f}" width="{wide:.1f}" height="{_BAR}" rx="2" '
            f'fill="{_OURS if who.ours else _THEIRS}"><title>{escape(who.settings)}</title></rect>'
        )
        found.append(_whisker(_LEFT + scale * rates.low, _LEFT + scale * rates.high, y + _BAR / 2))
        x = _LEFT + scale * rates.high + 10
        span = f"{_short(rates.low)}\N{EN DASH}{_short(rates.high)}" if rates.low < rates.high else ""
        found.append(
            f'<text x="{x:.1f}" y="{y + 15:.1f}"{_BOLD if who.ours else ""}>{rates.median:,.0f}'
            f'<tspan dx="8" font-size="11" font-weight="normal" fill="{_QUIET}">{span}</tspan></text>'
        )
    found.append(f'<line x1="{_LEFT}" x2="{_LEFT}" y1="{first:.1f}" y2="{last:.1f}" stroke="{_FAINT}"/>')
    return found, last + 22


def _whisker(low: float, high: float, y: float) -> str:
    """From the lowest to the highest, with a cap at each end; nothing where they are one."""
    if high - low < 1:
        return ""
    top, end = y - _CAP / 2, y + _CAP / 2
    line = f"M{low:.1f} {top:.1f}V{end:.1f}M{low:.1f} {y:.1f}H{high:.1f}M{high:.1f} {top:.1f}V{end:.1f}"
    return f'<path d="{line}" stroke="{_INK}" stroke-width="1.2" fill="none"/>'


def _short(rate: float) -> str:
    """Three digits, as people say them."""
    return f"{rate / 1e6:.3g}M" if rate >= 1e6 else f"{rate / 1e3:.3g}k"


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 13, bold: bool = False, fill: str = ""
) -> str:
    more = (_BOLD if bold else "") + (f' fill="{fill}"' if fill else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{more}>{escape(text)}</text>'
