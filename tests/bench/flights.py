"""The demo's year of flights, so many times over, for the bench of bounded runs: real rows, and many columns.

flights = Flights.written(30, folder)      10,103,280 rows of 19 columns; once
flights.text        as in the package, the header once
flights.parquet     the same columns, Snappy
flights.truth       records, miles, destinations and digest of a right result
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import polars
import pyarrow.parquet
from anabranch.replay.cli.demo_script import flight_data
from bounded_jobs import FLIGHTS, Job
from records import Truth, truth_of

__all__ = ["Flights"]


@dataclass(frozen=True, slots=True)
class Flights:
    """The files, complete, and their truth."""

    rows: int
    text: Path
    parquet: Path
    truth: Truth

    @property
    def job(self) -> Job:
        """What is run on them."""
        return FLIGHTS

    @classmethod
    def written(cls, times: int, folder: Path) -> Flights:
        """The files in `folder`, written where they are not there yet (30 times: 1 GB and 40 MB)."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"flights-{times}"
        text, parquet, truth = (folder / f"{stem}.{ending}" for ending in ("csv", "parquet", "json"))
        if not truth.exists():
            totals, rows = _write(times, text, parquet)
            # Last, and under its name when it is whole: where it is, the others are.
            new = truth.with_suffix(".new")
            new.write_text(json.dumps(asdict(truth_of(totals, rows))))
            new.replace(truth)
        found = Truth(**json.loads(truth.read_text()))
        return cls(found.records, text, parquet, found)


def _write(times: int, text: Path, parquet: Path) -> tuple[dict[str, int], int]:
    with zipfile.ZipFile(flight_data() / "flights.csv.zip") as archive:
        lines = archive.read("flights.csv")
    header, _, rows = lines.partition(b"\n")
    with text.open("wb") as file:
        file.write(header + b"\n")
        for _ in range(times):
            file.write(rows)
    year = polars.read_csv(lines, null_values="NA", infer_schema_length=None)
    table = year.to_arrow()
    with pyarrow.parquet.ParquetWriter(parquet, table.schema) as groups:
        for _ in range(times):
            groups.write_table(table)
    miles = year.group_by("dest").agg(polars.col("distance").sum())
    return {dest: times * total for dest, total in miles.iter_rows()}, times * len(year)
