"""The forms in which an archive can be written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, Any

from . import jsonl_format, parquet_format
from .manifest import Encoding
from .record_rows import RecordRows

__all__ = ["encoder", "reader"]


def encoder(encoding: Encoding) -> tuple[Callable[[Any, str, int], Any], str]:
    """What writes files (file, topic, partition), and how they end."""
    return (
        (parquet_format.ParquetFile, parquet_format.ENDING)
        if encoding == "parquet"
        else (jsonl_format.JsonlFile, jsonl_format.ENDING)
    )


def reader(encoding: Encoding) -> Callable[[IO[bytes], int], Iterator[RecordRows]]:
    """What reads files: (file, rows in a batch)."""
    return parquet_format.read_parquet if encoding == "parquet" else jsonl_format.read_jsonl
