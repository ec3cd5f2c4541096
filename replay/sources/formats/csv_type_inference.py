"""Infers the types of CSV columns over a whole source, from the first rows of each of its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ....topics.packed import arrow
from ..files.file_opening import READ_ERRORS, FileEntry, open_entry
from ..format import Format, kind_of
from ..source_record import BadLine
from .binary_kind import binary_kind
from .csv_parser import read_header, read_rows, repeats_header
from .csv_types import infer_type, widest
from .line_buffer import LineBuffer, LineTooLong, is_utf8

__all__ = ["infer_row_types", "infer_types"]

# Sample size of each file; smaller for many files, so that sampling does not take longer than reading.
_SAMPLE_BYTES = 256 * 1024
_SAMPLES_BYTES = 64 * 1024 * 1024
_LEAST_BYTES = 16 * 1024


def infer_types(entries: Sequence[FileEntry], format: Format) -> dict[str, str]:
    """Return the types by column over all CSV files among these; a column with nothing but nulls is text.

    A file that cannot be read is skipped here; reading it reports the error.
    """
    if format.as_text:
        return {}
    found: dict[str, list[str]] = {}
    size = max(_LEAST_BYTES, min(_SAMPLE_BYTES, _SAMPLES_BYTES // max(1, len(entries))))
    for entry in entries:
        kind, own = kind_of(entry.inside or entry.path, format)
        if kind == "csv":
            for name, type_ in _types_in_file(entry, own, size).items():
                found.setdefault(name, []).append(type_)
    known = {*dict(format.types), *dict(format.declared)}
    return {name: widest(types) or "text" for name, types in found.items() if name not in known}


def _types_in_file(entry: FileEntry, format: Format, size: int) -> Mapping[str, str]:
    try:
        opened = open_entry(entry)
    except READ_ERRORS:
        return {}
    buffer = LineBuffer(entry.name, skip_bom=is_utf8(format.encoding))
    ended = False
    try:
        left = size
        while left > 0 and not ended:
            data = opened.stream.read(min(left, _LEAST_BYTES))
            left -= len(data)
            if data:
                if left + len(data) == size and binary_kind(data) is not None:
                    return {}
                buffer.feed(data)
            else:
                ended = True
                buffer.finish()
    except (*READ_ERRORS, LineTooLong):
        pass  # the part that could be read is enough
    finally:
        opened.close()
    lines = buffer.peek(buffer.waiting)
    columns, passed = format.columns, 0
    if columns is None:
        try:
            header = read_header(lines, source=entry.name, format=format, final=ended) if lines else None
        except BadLine:
            return {}
        if header is None:
            return {}
        columns, passed = header
    return infer_row_types(lines[passed:], columns, format, final=ended, header=bool(passed))


def infer_row_types(
    lines: Sequence[bytes], columns: Sequence[str], format: Format, *, final: bool, header: bool = False
) -> dict[str, str]:
    """Return the types of columns in some lines; empty for a column with nothing but nulls.

    Args:
        header: the file has a header; rows that repeat it are no sample.
    """
    if not lines:
        return dict.fromkeys(columns, "")
    width = len(columns)
    rows = [
        row.cells for row in read_rows(lines, 1, source="", format=format, final=final).rows if len(row.cells) == width
    ]
    if header:
        rows = [cells for cells in rows if not repeats_header(cells, columns)]
    if not rows:
        return dict.fromkeys(columns, "")
    text = arrow().string()
    return {
        name: infer_type(arrow().array(cells, text), format.nulls)
        for name, cells in zip(columns, zip(*rows, strict=True), strict=True)
    }
