"""Docstrings (Google's style, with Markdown in the text) as Markdown, and annotations as text, for the references."""

from __future__ import annotations

import inspect
import re
from typing import ForwardRef

_SECTIONS = {
    "Args": "Arguments",
    "Attributes": "Attributes",
    "Raises": "Raises",
    "Returns": "Returns",
    "Yields": "Yields",
}
_ENTRY = re.compile(r"^(?P<names>[*\w.]+(?:, [*\w.]+)*): (?P<text>.*)$")


def markdown(doc: str, *, skip: frozenset[str] = frozenset()) -> str:
    """Return a docstring as Markdown: sections become lists, examples and indented blocks become code.

    Args:
        doc: the docstring.
        skip: sections to omit, by their name in the docstring.
    """
    parts: list[str] = []
    for heading, lines in _sections(inspect.cleandoc(doc)):
        if heading in skip:
            continue
        parts.append(_section(heading, lines) if heading else _prose(lines))
    return "\n\n".join(part for part in parts if part)


def attributes(doc: str) -> dict[str, str]:
    """Return the texts of the section `Attributes` by name, each in one line."""
    found: dict[str, str] = {}
    for heading, lines in _sections(inspect.cleandoc(doc)):
        if heading == "Attributes":
            for names, text in _entries(lines):
                found.update(dict.fromkeys(names.split(", "), text))
    return found


def type_text(annotation: object) -> str:
    """Return an annotation as the source has it, without the modules of names."""
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    for prefix in ("anabranch.", "typing.", "collections.abc."):
        text = text.replace(prefix, "")
    return text.strip("'")


def _sections(doc: str) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in doc.splitlines():
        if line.removesuffix(":") in _SECTIONS and line.endswith(":"):
            found.append((line.removesuffix(":"), []))
        elif found[-1][0] and line and not line.startswith(" "):
            found.append(("", [line]))
        else:
            found[-1][1].append(line)
    return found


def _entries(lines: list[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for line in inspect.cleandoc("\n".join(["", *lines])).splitlines():
        entry = None if line.startswith(" ") else _ENTRY.match(line)
        if entry:
            found.append((entry["names"], entry["text"]))
        elif found and line.strip():
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
        elif line.strip():
            found.append(("", line.strip()))
    return found


def _section(heading: str, lines: list[str]) -> str:
    entries = _entries(lines)
    items = []
    for names, text in entries:
        shown = ", ".join(f"`{name}`" for name in names.split(", ")) if names else ""
        items.append(f"- {shown}{': ' if shown else ''}{text}")
    return f"**{_SECTIONS[heading]}**\n\n" + "\n".join(items)


def _prose(lines: list[str]) -> str:
    """Paragraphs; those that are indented, or begin with `>>>`, are code."""
    parts: list[str] = []
    for paragraph in "\n".join(lines).strip("\n").split("\n\n"):
        if paragraph.startswith(">>>"):
            parts.append(f"```python\n{paragraph}\n```")
        elif paragraph.startswith("    "):
            parts.append(f"```text\n{inspect.cleandoc(paragraph)}\n```")
        else:
            parts.append(paragraph)
    return "\n\n".join(parts)
