"""Keyed amounts in files, for the benches of bounded runs: the same rows as text and as Parquet, and their sums.

    amounts = Amounts.written(20_000_000, folder)      once; found again as long as the folder is there
    amounts.text        `user-17,42`, a line each, no header
    amounts.parquet     columns `key` and `amount`, Snappy, row groups of a million
    amounts.truth       records, sum, keys and digest of a right result; `truth_of` makes the same of what a run found

Rows are drawn a million at a time, each million with a seed of its own, so the first M of N rows are the M rows, here
and elsewhere. Keys follow Zipf's law (the k-th most frequent key comes 1/k as often as the first).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
import polars
import pyarrow.parquet
from bounded_jobs import AMOUNTS, Job
from records import Truth, truth_of

__all__ = ["CHUNK", "KEYS", "Amounts", "drawn"]

KEYS = 100_000
CHUNK = 1_000_000
_SEED = 20_130_101
_LARGEST = 100


@dataclass(frozen=True, slots=True)
class Amounts:
    """The files, complete, and their truth."""

    rows: int
    text: Path
    parquet: Path
    truth: Truth

    @property
    def job(self) -> Job:
        """What is run on them."""
        return AMOUNTS

    @classmethod
    def written(cls, rows: int, folder: Path) -> Amounts:
        """The files in `folder`, written where they are not there yet (20,000,000 rows: 10 s, 237 MB and 74 MB)."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"amounts-{rows}"
        text, parquet, truth = (folder / f"{stem}.{ending}" for ending in ("txt", "parquet", "json"))
        if not truth.exists():
            totals = _write(rows, text, parquet)
            # Last, and under its name when it is whole: where it is, the others are.
            new = truth.with_suffix(".new")
            new.write_text(json.dumps(asdict(truth_of(totals, rows))))
            new.replace(truth)
        return cls(rows, text, parquet, Truth(**json.loads(truth.read_text())))


def drawn(rows: int) -> Iterator[tuple[numpy.ndarray, numpy.ndarray]]:
    """The first `rows` rows, a chunk at a time, as (rank of the key from 0, amount from 1 to 100), both int64."""
    # Divisions and sums only: unlike powers, they are the same to the last bit on every machine.
    bounds = numpy.cumsum(1.0 / numpy.arange(1, KEYS + 1))
    for number, first in enumerate(range(0, rows, CHUNK)):
        random = numpy.random.Generator(numpy.random.PCG64([_SEED, number]))
        ranks = numpy.searchsorted(bounds, random.random(CHUNK) * bounds[-1], side="right")
        amounts = random.integers(1, _LARGEST, CHUNK, endpoint=True)
        count = min(CHUNK, rows - first)
        yield ranks[:count], amounts[:count]


def _write(rows: int, text: Path, parquet: Path) -> dict[str, int]:
    names = polars.Series("key", [f"user-{rank + 1}" for rank in range(KEYS)])
    sums = numpy.zeros(KEYS, numpy.int64)
    schema = pyarrow.schema([("key", pyarrow.string()), ("amount", pyarrow.int64())])
    with text.open("wb") as lines, pyarrow.parquet.ParquetWriter(parquet, schema) as groups:
        for ranks, amounts in drawn(rows):
            numpy.add.at(sums, ranks, amounts)
            frame = polars.DataFrame([names.gather(ranks), polars.Series("amount", amounts)])
            frame.write_csv(lines, include_header=False)
            groups.write_table(frame.to_arrow().cast(schema))
    # Amounts are positive: a sum of 0 is a key that has not been drawn.
    return {name: total for name, total in zip(names, sums.tolist(), strict=True) if total}
