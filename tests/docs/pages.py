"""The pages of the documentation: their fenced blocks, code spans, links and headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import anabranch

ROOT = Path(anabranch.__file__).parent
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
)

CTRL_C = "<!-- Ctrl-C -->"

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(rf"{_FENCE.pattern}|^({re.escape(CTRL_C)})$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: `language` is the word behind the fence, `line` that of the fence, from 1.

    A comment `CTRL_C`, which stands where the prose says to press it, is a block of this language without text.
    """

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Page:
    """A page, by its path from the root of the repository."""

    path: str

    @cached_property
    def text(self) -> str:
        """The page; of the changelog, the part before the list of former names."""
        text = (ROOT / self.path).read_text()
        return text.partition("**Names**")[0] if self.path == "CHANGELOG.md" else text

    @cached_property
    def blocks(self) -> list[Block]:
        found = _BLOCK.finditer(self.text)
        return [
            Block(match[4] or match[2], match[3] or "", self.text.count("\n", 0, match.start()) + 1) for match in found
        ]

    @cached_property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return _FENCE.sub("", self.text)

    @cached_property
    def spans(self) -> list[str]:
        """The inline code of the prose."""
        return _SPAN.findall(self.prose)

    @cached_property
    def links(self) -> list[str]:
        return _LINK.findall(self.prose)

    @cached_property
    def anchors(self) -> set[str]:
        """The anchors that GitHub makes of the headings."""
        return {_anchor(heading) for heading in _HEADING.findall(self.prose)}


def _anchor(heading: str) -> str:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
