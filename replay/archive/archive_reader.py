"""Reads the files of an archive, after checking their checksums, and checks the content against the manifest.

The checksum proves nothing about an archive from another source, so the content is treated as untrusted data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ...topics.errors import Stop
from ..sources.files.file_opening import READ_ERRORS, library_errors
from .jsonl_format import read_jsonl
from .manifest import ArchivedFile, Encoding
from .parquet_format import read_parquet
from .record_columns import RecordColumns

__all__ = ["damaged", "read_archived_file"]

_CHUNK_BYTES = 1024 * 1024


def read_archived_file(
    folder: Path, entry: ArchivedFile, encoding: Encoding, batch_rows: int
) -> Iterator[RecordColumns]:
    """Yield the records of a file in order, in batches.

    The whole file is read and its SHA-256 compared before the first record is returned.

    Raises:
        Stop: the file differs from the file that the archiver wrote.
    """
    path = folder / entry.name
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while data := file.read(_CHUNK_BYTES):
                digest.update(data)
            if digest.hexdigest() != entry.sha256:
                raise damaged(path, "it differs from the file that the archiver wrote")
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
                    raise damaged(path, f"offsets {first:,} to {last:,} are not those in the manifest")
                count, at = count + len(rows), last + 1
                yield rows
        if count != entry.records:
            raise damaged(path, f"it holds {count:,} records, {entry.records:,} according to the manifest")
    except READ_ERRORS as exc:
        raise damaged(
            path, f"it cannot be read: {getattr(exc, 'strerror', None) or exc or type(exc).__name__}"
        ) from exc


def damaged(path: Path, what: str) -> Stop:
    """Return the error for a file of an archive that was changed or is incomplete."""
    return Stop(
        f"{path}: {what}",
        hint=f"anabranch archive check {path.parent} lists what is wrong; restore a complete copy",
    )
