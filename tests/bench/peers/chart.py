"""A picture of rates: a bar for each contender, those of anabranch in another colour. SVG, written by ourselves."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

from .standing import Field

__all__ = ["draw", "write_chart"]

_WIDTH = 900
_LEFT, _RIGHT = 250, 190
_BAR, _STEP = 20, 30
_INK, _OURS, _THEIRS, _FAINT = "#24292f", "#2f6f8f", "#aab4be", "#d0d7de"


def write_chart(fields: list[Field], note: str, path: Path) -> None:
    """Write the picture, to a temporary file that is renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(draw(fields, note), encoding="utf-8")
    new.replace(path)


def draw(fields: list[Field], note: str) -> str:
    """The picture as SVG: field under field, each with a scale of its own, the fastest first; `note` below."""
    parts: list[str] = []
    top = 10.0
    for field in fields:
        if field.figures:
            found, top = _field(field, top)
            parts += found
    height = top + 24
    parts.append(_text(16, top + 8, note, size=11))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" font-family="sans-serif" '
        f'font-size="13" fill="{_INK}">'
    )
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{height:.0f}" fill="white"/>', *parts, "</svg>\n"])


def _field(field: Field, top: float) -> tuple[list[str], float]:
    """One field's bars from `top` on, and where it ends."""
    found = [_text(16, top + 20, field.title, size=16)]
    ranks = sorted((who for who in field.contenders if who.key in field.figures), key=lambda w: -field.rate(w.key))
    fastest, inner = field.rate(ranks[0].key), _WIDTH - _LEFT - _RIGHT
    first = top + 36
    last = first + _STEP * len(ranks)
    found.append(f'<line x1="{_LEFT}" x2="{_LEFT}" y1="{first:.1f}" y2="{last:.1f}" stroke="{_FAINT}"/>')
    for place, who in enumerate(ranks):
        y, rate = first + _STEP * place + (_STEP - _BAR) / 2, field.rate(who.key)
        wide = max(1.0, inner * rate / fastest)
        shown = f"{rate:,.0f} {field.unit}/s"
        found.append(_text(_LEFT - 8, y + 15, who.name, anchor="end", bold=who.ours))
        found.append(
            f'<rect x="{_LEFT}" y="{y:.1f}" width="{wide:.1f}" height="{_BAR}" '
            f'fill="{_OURS if who.ours else _THEIRS}"><title>{escape(who.settings)}</title></rect>'
        )
        found.append(_text(_LEFT + wide + 8, y + 15, shown, bold=who.ours))
    return found, last + 14


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 13, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{weight}>{escape(text)}</text>'
