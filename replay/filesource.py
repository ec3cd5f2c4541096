"""A file, or a file inside an archive, as a source."""

from __future__ import annotations

from ..topics.errors import Stop
from .csvfile import CsvParser, read_header
from .format import Format, kind_of
from .item import BadLine, Item
from .jsonlines import JsonLinesParser
from .lines import BATCH_LINES, LineBuffer, LineParser, is_utf8
from .opening import UNREADABLE, Member, open_member
from .source import Position
from .text import TextParser

__all__ = ["FileSource"]

_CHUNK_BYTES = 256 * 1024


class FileSource:
    """One stream of lines on disk. Memory is bounded by a batch of lines, whatever the file's size.

    Args:
        position: where to begin: `byte` of the decompressed stream and `line`, both of the next line.

    Raises:
        Usage: a column that is named does not exist.
        Stop: it cannot be opened.
        BadLine: its header cannot be read.
    """

    def __init__(
        self, member: Member, format: Format, position: Position | None = None, *, batch_lines: int = BATCH_LINES
    ) -> None:
        self.bad: list[BadLine] = []
        self.blank = 0
        self._name = member.name
        self._batch_lines = batch_lines
        self._exhausted = False
        self._buffer = LineBuffer(self._name, skip_bom=is_utf8(format.encoding))
        try:
            self._opened = open_member(member)
        except UNREADABLE as exc:
            raise self._unreadable(exc) from exc
        try:
            kind, format = kind_of(member.inside or member.path, format)
            self._parser = self._make_parser(kind, format)
            if position and position["byte"] > self._buffer.byte:
                self._go_to(position)
        except BaseException:
            self.close()
            raise

    ask_again_s = 0.0

    @property
    def ended(self) -> bool:
        """See `Source`."""
        return self._exhausted and not self._buffer.waiting

    @property
    def done_bytes(self) -> int:
        """See `Source`."""
        return self._opened.done_bytes()

    def next_batch(self) -> list[Item]:
        """See `Source`."""
        buffer = self._buffer
        wanted = self._batch_lines
        while True:
            if not self._exhausted and buffer.waiting < wanted:
                self._fill()
            lines = buffer.peek(wanted)
            if not lines:
                if self._exhausted:
                    return []
                continue
            final = self._exhausted and len(lines) == buffer.waiting
            parsed = self._parser.parse(lines, buffer.line + 1, final=final)
            if parsed.used:
                break
            wanted = 2 * max(wanted, len(lines))
        buffer.drop(parsed.used)
        self.bad += parsed.bad
        self.blank += parsed.blank
        if not buffer.waiting and not self._exhausted:
            # Look ahead: a last batch that is known to be the last saves the run a transaction of its own for its end.
            self._fill()
        return parsed.items

    def snapshot(self) -> Position:
        """See `Source`."""
        return {"byte": self._buffer.byte, "line": self._buffer.line}

    def close(self) -> None:
        """See `Source`."""
        self._opened.close()

    def _make_parser(self, kind: str, format: Format) -> LineParser:
        if kind == "text":
            return TextParser(self._name, format)
        if kind == "jsonl":
            return JsonLinesParser(self._name, format)
        return CsvParser(self._name, format, format.columns or self._read_header(format))

    def _read_header(self, format: Format) -> tuple[str, ...]:
        while True:
            self._fill()
            lines = self._buffer.peek(self._buffer.waiting)
            header = read_header(lines, source=self._name, format=format, final=self._exhausted) if lines else None
            if header is not None:
                self._buffer.drop(header[1])
                return header[0]
            if self._exhausted:
                raise Stop(
                    f"{self._name}: no header line: it is empty", hint="--columns names the columns of a file without"
                )

    def _go_to(self, position: Position) -> None:
        try:
            self._opened.stream.seek(position["byte"])
        except UNREADABLE as exc:
            raise self._unreadable(exc) from exc
        self._exhausted = False
        self._buffer = LineBuffer(self._name, byte=position["byte"], line=position["line"])

    def _fill(self) -> None:
        try:
            data = self._opened.stream.read(_CHUNK_BYTES)
        except UNREADABLE as exc:
            raise self._unreadable(exc) from exc
        if data:
            self._buffer.feed(data)
        else:
            self._exhausted = True
            self._buffer.finish()

    def _unreadable(self, exc: BaseException) -> Stop:
        line = self._buffer.line + self._buffer.waiting + 1
        what = "ends too early: it is truncated" if isinstance(exc, EOFError) else f"cannot be read: {exc}"
        return Stop(f"{self._name}:{line}: {what}", hint="get a whole copy of the file; what was sent stays sent")
