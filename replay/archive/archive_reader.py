"""Files of an archive, read: each only where it is what was written, and what is in it what its manifest says.

A checksum that fits proves nothing of an archive that somebody else made, so what is inside is a stranger's data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ...topics.errors import Stop
from ..sources.files.file_opening import READ_ERRORS, library_errors
from .jsonl_format import read_jsonl
from .manifest import Encoding, Entry
from .parquet_format import read_parquet
from .record_columns import RecordColumns

__all__ = ["damaged", "read_archived_file"]

_CHUNK_BYTES = 1024 * 1024


def read_archived_file(folder: Path, entry: Entry, encoding: Encoding, batch_rows: int) -> Iterator[RecordColumns]:
    """The records of a file in order, in batches.

    The file is read as a whole and its SHA-256 compared before the first of its records is given away.

    Raises:
        Stop: it is not what the archiver wrote.
    """
    path = folder / entry.name
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while data := file.read(_CHUNK_BYTES):
                digest.update(data)
            if digest.hexdigest() != entry.sha256:
                raise damaged(path, "it is not what the archiver wrote")
            file.seek(0)
            with library_errors():
                batches = (read_parquet if encoding == "parquet" else read_jsonl)(file, batch_rows)
            count, at = 0, entry.begin
            while True:
                with library_errors():
                    rows = next(batches, None)
                if rows is None:
                    break
                first, last = rows.offsets[0], rows.offsets[-1]
                if first < at or last >= entry.end or last - first + 1 < len(rows):
                    raise damaged(path, f"offsets {first:,} to {last:,} are not those of its manifest")
                count, at = count + len(rows), last + 1
                yield rows
        if count != entry.records:
            raise damaged(path, f"it holds {count:,} records, and {entry.records:,} by its manifest")
    except READ_ERRORS as exc:
        raise damaged(
            path, f"it cannot be read: {getattr(exc, 'strerror', None) or exc or type(exc).__name__}"
        ) from exc


def damaged(path: Path, what: str) -> Stop:
    """A file of an archive that is not what it was."""
    return Stop(
        f"{path}: {what}",
        hint=f"anabranch archive check {path.parent} lists what is wrong; bring back a whole copy",
    )
