"""All messages and hints of errors, from the calls in the code: `raise Usage("…", hint="…")`.

What a message names (a topic, a file) is shown as `…`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import anabranch
from anabranch.topics import errors

ROOT = Path(anabranch.__file__).parent
ROOMS = ("topics", "agents", "replay")
KINDS = ("Usage", "Stop", "BadRecord", "Rebuild", "Retriable", "Hung")
# What only tests meet, and what is said by another message as well.
_OMITTED = ("topics/memory", "replay/testing")


def error_reference() -> str:
    """Return a table of messages and hints for each class of errors, as Markdown."""
    found = sorted(set(_raised()), key=lambda each: each[1].lower())
    parts: list[str] = []
    for kind in KINDS:
        rows = [(message, hint) for name, message, hint in found if name == kind]
        if rows:
            lines = "\n".join(f"| {_cell(message)} | {_cell(hint)} |" for message, hint in rows)
            parts.append(f"### Messages of `{kind}`\n\n| message | hint |\n| --- | --- |\n{lines}")
    return "\n\n".join(parts)


def _raised() -> Iterator[tuple[str, str, str]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if str(path.relative_to(ROOT)).startswith(_OMITTED):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
                    message = _text(node.args[0]) if node.args else ""
                    hints = [_text(each.value) for each in node.keywords if each.arg == "hint"]
                    if message.strip("… :"):
                        yield node.func.id, message, hints[0] if hints else ""


def _text(node: ast.expr) -> str:
    """Return a text of the code; what is computed is `…`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "…"


def _cell(text: str) -> str:
    text = " ".join(text.split())
    for special in "\\|<>*_[]`":
        text = text.replace(special, f"\\{special}")
    return text


def subclasses() -> set[str]:
    """Return the names of all classes of errors in the code that derive from `AnabranchError`."""
    bases: dict[str, set[str]] = {}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    bases[node.name] = {base.id for base in node.bases if isinstance(base, ast.Name)}
    known, before = {errors.AnabranchError.__name__}, set[str]()
    while known != before:
        before = set(known)
        known |= {name for name, of in bases.items() if of & known}
    return {name for name in known if not name.startswith("_")}
