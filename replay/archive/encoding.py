"""The forms in which an archive can be written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, Any

from . import jsonl, parquet
from .envelope import Rows
from .manifest import Encoding

__all__ = ["encoder", "reader"]


def encoder(encoding: Encoding) -> tuple[Callable[[Any, str, int], Any], str]:
    """What writes files (file, topic, partition), and how they end."""
    return (parquet.ParquetFile, parquet.ENDING) if encoding == "parquet" else (jsonl.JsonlFile, jsonl.ENDING)


def reader(encoding: Encoding) -> Callable[[IO[bytes], int], Iterator[Rows]]:
    """What reads files: (file, rows in a batch)."""
    return parquet.read_parquet if encoding == "parquet" else jsonl.read_jsonl
