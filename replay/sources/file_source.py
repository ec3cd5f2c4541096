"""`FileSource`: a file of lines (text, CSV, JSON Lines) as a source."""

from __future__ import annotations

from functools import partial

from ...topics.cleanup import on_failure
from .field_mapping import FieldMapping
from .files.file_opening import READ_ERRORS, FileEntry, Opened, open_entry, why
from .format import RAW_BYTES, Format, kind_of
from .formats.binary_kind import binary_kind
from .formats.csv_parser import CsvParser, check_header, read_header
from .formats.json_lines import JsonColumns, JsonLinesParser
from .formats.line_buffer import (
    BATCH_LINES,
    BLOCK_BYTES,
    MAX_LINE_BYTES,
    BlockBuffer,
    BlockParser,
    LineBuffer,
    LineParser,
    LineTooLong,
    is_utf8,
    other_encoding,
)
from .formats.text_lines import TextColumns, TextParser
from .source import SourceBatch, SourcePosition
from .source_record import NO_LIMIT, BadLine

__all__ = ["FileSource"]

_CHUNK_BYTES = 256 * 1024
_CSV_WAITING_BYTES = 2 * MAX_LINE_BYTES + BLOCK_BYTES
# A header can span lines inside quotes, and blank lines can precede it.
_HEADER_LINES = 16


class FileSource:
    """Reads one stream of lines. Memory is bounded by a batch of lines, whatever the file's size.

    A file that cannot be read to its end yields a bad line in place of the rest.

    Args:
        position: where to begin: `byte` in the decompressed stream and `line`, both of the next line.
        max_record_bytes: records with larger values are bad lines.
        columnar: return records as `ColumnBatch` where the format allows it.

    Raises:
        Usage: a requested column does not exist.
    """

    def __init__(
        self,
        entry: FileEntry,
        format: Format,
        position: SourcePosition | None = None,
        *,
        batch_lines: int = BATCH_LINES,
        max_record_bytes: int = NO_LIMIT,
        columnar: bool = False,
    ) -> None:
        self._name = entry.name
        self._entry = entry
        self._delimiter_given = format.delimiter is not None
        kind, format = kind_of(entry.inside or entry.path, format)
        # A columnar batch takes all lines that have been read.
        self._batch_lines = 1 if columnar else batch_lines
        self._chunk_bytes = BLOCK_BYTES if columnar else _CHUNK_BYTES
        self._columnar = columnar
        self._new_buffer = partial(
            BlockBuffer if columnar or kind == "csv" else LineBuffer,
            self._name,
            # All lines of a row are in memory together, and a line can be as large as a cell.
            most_waiting=_CSV_WAITING_BYTES if kind == "csv" else MAX_LINE_BYTES,
        )
        self._max_record_bytes = max_record_bytes
        self._exhausted = False
        self._encoding = format.encoding
        # Bytes of any kind are text if the user says so.
        self._check_kind = format.encoding != RAW_BYTES
        self._broken: BadLine | None = None
        self._buffer = self._new_buffer(skip_bom=is_utf8(format.encoding))
        self._opened: Opened | None = None
        self._parser: LineParser | None = None
        with on_failure(self.close):
            try:
                self._opened = open_entry(entry)
                self._parser = self._make_parser(kind, format)
                if position and position["byte"] > self._buffer.byte:
                    self._opened.stream.seek(position["byte"])
                    self._check_kind = False
                    self._exhausted = False
                    self._buffer = self._new_buffer(byte=position["byte"], line=position["line"])
            except READ_ERRORS as exc:
                self._mark_broken(why(exc))
            except BadLine as exc:
                self._broken = exc
        self.begins = self._position()

    poll_again_s = 0.0

    @property
    def ended(self) -> bool:
        """True once all lines have been returned."""
        return self._exhausted and not self._buffer.waiting and self._broken is None

    @property
    def done_bytes(self) -> int:
        """Bytes of the file on disk that have been read."""
        return self._opened.done_bytes() if self._opened else 0

    def next_batch(self) -> SourceBatch:
        """Return the records of the next lines; of a damaged file, finally one bad line for the rest."""
        buffer, parser = self._buffer, self._parser
        wanted, wanted_bytes = self._batch_lines, 0
        while True:
            if buffer.waiting < wanted:
                self._fill_up(wanted_bytes)
            lines = buffer.peek(NO_LIMIT if self._columnar else wanted)
            if self._broken is not None and (parser is None or not lines):
                return self._end_with_bad_line()
            if not lines or parser is None:
                if self._exhausted:
                    return SourceBatch((), self._position())
                continue
            cut_off = self._broken is not None and len(lines) == buffer.waiting
            parsed = parser.parse(lines, buffer.line + 1, final=self._exhausted and len(lines) == buffer.waiting)
            if parsed.used:
                break
            if cut_off:
                return self._end_with_bad_line()
            # An incomplete row is tried again with twice the data, so that all attempts together cost twice the last
            # one.
            wanted, wanted_bytes = 2 * max(wanted, len(lines)), 2 * buffer.waiting_bytes
        buffer.drop(parsed.used)
        if not buffer.waiting and not self._exhausted and self._broken is None:
            # Read ahead: if the last batch is known to be the last, the run needs no transaction of its own for the
            # end.
            self._fill()
        return SourceBatch(parsed.records, self._position(), parsed.bad, parsed.blank)

    def _position(self) -> SourcePosition:
        return {"byte": self._buffer.byte, "line": self._buffer.line}

    def close(self) -> None:
        """Close the file. May be called more than once."""
        if self._opened is not None:
            self._opened.close()

    def _make_parser(self, kind: str, format: Format) -> LineParser:
        fields, most = self._entry.fields, self._max_record_bytes
        if kind == "text":
            plain = TextParser(self._name, format, max_bytes=most)
            return BlockParser.of_columns(TextColumns(format, most), plain) if self._columnar else plain
        if kind == "jsonl":
            plain = JsonLinesParser(self._name, format, fields=fields, max_bytes=most)
            mapping = FieldMapping(format, self._name)
            # Lines are columnar only if they are sent unchanged, so not with fields of folder names or computed keys.
            columnar = self._columnar and mapping.plain and not fields
            return BlockParser.of_columns(JsonColumns(format, mapping, most), plain) if columnar else plain
        columns = format.columns or self._read_header(format)
        return CsvParser(
            self._name,
            format,
            columns,
            fields=fields,
            max_bytes=most,
            columnar=self._columnar,
            header=format.columns is None,
        )

    def _read_header(self, format: Format) -> tuple[str, ...]:
        buffer, wanted = self._buffer, _HEADER_LINES
        while True:
            if buffer.waiting < wanted and not self._exhausted:
                self._fill()
            if self._broken is not None:
                raise self._broken
            lines = buffer.peek(wanted)[:wanted]
            last = self._exhausted and len(lines) == buffer.waiting
            header = read_header(lines, source=self._name, format=format, final=last) if lines else None
            if header is not None:
                check_header(
                    header[0], lines, source=self._name, format=format, final=last, given=self._delimiter_given
                )
                buffer.drop(header[1])
                return header[0]
            if last:
                raise BadLine(
                    self._name,
                    1,
                    "no header line: the file is empty (--columns names the columns of files without a header line)",
                    b"",
                )
            wanted = 2 * max(wanted, len(lines))

    def _fill_up(self, wanted_bytes: int) -> None:
        """Read at least one chunk, and more until `wanted_bytes` are buffered."""
        while self._broken is None and not self._exhausted:
            self._fill()
            if self._buffer.waiting_bytes >= wanted_bytes:
                return

    def _fill(self) -> None:
        assert self._opened is not None
        try:
            data = self._opened.stream.read(self._chunk_bytes)
            if data:
                reason = (binary_kind(data) or other_encoding(data, self._encoding)) if self._check_kind else None
                if reason is not None:
                    self._mark_broken(reason)
                    return
                self._check_kind = False
                self._buffer.feed(data)
            else:
                self._exhausted = True
                self._buffer.finish()
        except READ_ERRORS as exc:
            self._mark_broken(why(exc))
        except LineTooLong as exc:
            self._mark_broken(str(exc))

    def _mark_broken(self, reason: str) -> None:
        line = self._buffer.line + self._buffer.waiting + 1
        self._broken = BadLine(self._name, line, f"{reason}; the rest of the file is not read", b"")

    def _end_with_bad_line(self) -> SourceBatch:
        assert self._broken is not None
        bad, self._broken = [self._broken], None
        self._exhausted = True
        self._buffer = self._new_buffer(byte=self._buffer.byte, line=self._buffer.line)
        return SourceBatch((), self._position(), bad)
