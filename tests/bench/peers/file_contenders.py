"""Contenders that read a file and write a file: the sum of each key of keyed amounts.

What is measured is a command line as a user would give it, with the start of interpreters and Java in it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from amounts import Amounts
from anabranch.topics.cluster import Cluster
from bounded import RESULT, check, command, environment, forget
from measure import BenchError
from records import truth_of

from .contender_result import Contender, Figure
from .environment import PROGRAMS, Python, Tell
from .meter import metered

__all__ = ["ON_FILE", "OnFile"]

THREADS = 2
_SPARK = Python("pyspark", ("pyspark==4.3.0",), needs_java=True)
_DUCKDB = Python("duckdb", ("duckdb==2.0.0",))


class OnFile(Protocol):
    """Anybody who can be measured on a file."""

    @property
    def who(self) -> Contender: ...

    def prepare(self, cache: Path, tell: Tell) -> None:
        """Make what it needs; raises `Missing` where it cannot be had."""

    def run(self, amounts: Amounts, cluster: Cluster, folder: Path, cache: Path) -> Figure:
        """Run it once and check its sums; raises `BenchError` where it fails or they are wrong."""


@dataclass(frozen=True, slots=True)
class Ours:
    """A bounded run, packed, as `bounded.py` has it: one worker.

    Attributes:
        reads: `csv` or `parquet`.
    """

    who: Contender
    reads: str

    def prepare(self, cache: Path, tell: Tell) -> None:
        """Nothing is missing."""

    def run(self, amounts: Amounts, cluster: Cluster, folder: Path, cache: Path) -> Figure:
        """One run with topics of its own, which are deleted afterwards."""
        servers, run_id = cluster.bootstrap_servers, uuid.uuid4().hex[:8]
        place = folder / f"{self.who.key}-{run_id}"
        place.mkdir()
        asked = command(amounts, servers, form=self.reads, packed=True, processes=1, run_id=run_id)
        usage = metered(asked, folder=place, log=place / "log", environment=environment(amounts))
        check(amounts, place / RESULT)
        forget(amounts, run_id, servers)
        return Figure(amounts.rows / usage.seconds, usage.seconds, usage.cpu_s, usage.peak_bytes)


@dataclass(frozen=True, slots=True)
class Peer:
    """A program in an environment of its own.

    Attributes:
        reads: `csv` or `parquet`.
    """

    who: Contender
    environment: Python
    program: str
    reads: str
    options: tuple[str, ...] = ()

    def prepare(self, cache: Path, tell: Tell) -> None:
        """Make its environment."""
        self.environment.get(cache, tell)

    def run(self, amounts: Amounts, cluster: Cluster, folder: Path, cache: Path) -> Figure:
        """One run; it knows nothing of the cluster."""
        python = str(self.environment.get(cache, lambda _: None))
        name = f"{self.who.key}-{uuid.uuid4().hex[:8]}"
        result = folder / name
        source = amounts.parquet if self.reads == "parquet" else amounts.text
        asked = [python, str(PROGRAMS / self.program), "--input", str(source.absolute())]
        asked += ["--output", str(result), "--threads", str(THREADS), *self.options]
        # Workers of Spark are of the same Python.
        usage = metered(
            asked, folder=folder, log=folder / f"{name}.log", environment={**os.environ, "PYSPARK_PYTHON": python}
        )
        wrong = amounts.truth.differs(truth_of(dict(_sums(result)), amounts.rows))
        if wrong:
            raise BenchError(f"{self.who.name}: the result is wrong: {wrong}")
        return Figure(amounts.rows / usage.seconds, usage.seconds, usage.cpu_s, usage.peak_bytes)


def _sums(result: Path) -> Iterator[tuple[str, int]]:
    """What stands in a result: lines `key,sum` in a file, or in the parts of a folder."""
    seen: set[str] = set()
    for path in sorted(result.glob("part-*")) if result.is_dir() else [result]:
        for line in path.read_text().splitlines():
            key, _, total = line.partition(",")
            if key in seen:
                raise BenchError(f"{result}: {key} stands twice")
            seen.add(key)
            yield key, int(total)


def _spark(key: str, name: str, reads: str, form: str, settings: str) -> Peer:
    return Peer(Contender(key, name, settings), _SPARK, "spark.py", reads, ("--form", form))


ON_FILE: tuple[OnFile, ...] = (
    Ours(Contender("packed", "anabranch, packed, CSV", "run --pack, one worker", ours=True), "csv"),
    Ours(Contender("packed-parquet", "anabranch, packed, Parquet", "run --pack, one worker", ours=True), "parquet"),
    _spark("spark-rdd", "PySpark, RDD, text", "csv", "rdd", "local[2], textFile, map, reduceByKey, saveAsTextFile"),
    _spark("spark-frame", "PySpark, DataFrame, CSV", "csv", "frame", "local[2], schema given, 2 shuffle partitions"),
    _spark("spark-parquet", "PySpark, DataFrame, Parquet", "parquet", "frame", "local[2], 2 shuffle partitions"),
    Peer(Contender("duckdb-csv", "DuckDB, CSV", "2 threads, columns given"), _DUCKDB, "duck.py", "csv"),
    Peer(Contender("duckdb-parquet", "DuckDB, Parquet", "2 threads"), _DUCKDB, "duck.py", "parquet"),
)
