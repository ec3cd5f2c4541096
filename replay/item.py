"""One record on its way into a topic, and one line that could not become one."""

from __future__ import annotations

from ..topics.errors import BadRecord
from ..topics.producer import Headers

__all__ = ["BadLine", "Item"]

# (key, value, timestamp_ms, headers, partition); timestamp 0 means now, partition None the one that the key tells. A
# plain tuple: it is made and taken apart some hundred thousand times a second, and a named one costs as much as parsing
# the line.
Item = tuple[bytes | None, bytes | None, int, Headers | None, int | None]


class BadLine(BadRecord):
    """A line (or a CSV row) that is not what its file says it is.

    Attributes:
        source: the file, as the user would name it.
        line: number of the line in it, from 1.
        reason: what is wrong with it.
        value: its bytes as they are.
    """

    def __init__(self, source: str, line: int, reason: str, value: bytes) -> None:
        super().__init__(
            f"{source}:{line}: {reason}",
            hint="--on-bad-line skip leaves such lines out, dead-letter keeps them in a topic of their own",
        )
        self.source = source
        self.line = line
        self.reason = reason
        self.value = value

    @property
    def where(self) -> str:
        """`file:line`."""
        return f"{self.source}:{self.line}"
