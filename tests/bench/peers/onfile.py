"""Contenders that read a file and write a file: keyed amounts in, the sum of each key out, from start to end.

What is measured is a command line as a user would give it, with the start of interpreters and Java in it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from amounts import Amounts
from measure import BenchError
from records import truth_of

from .environment import PROGRAMS, Python, Tell
from .figure import Contender, Figure
from .meter import metered

__all__ = ["ON_FILE", "OnFile"]

THREADS = 2
_SPARK = Python("pyspark", ("pyspark==4.3.0",), needs_java=True)
_DUCKDB = Python("duckdb", ("duckdb==2.0.0",))


@dataclass(frozen=True, slots=True)
class OnFile:
    """A program in an environment of its own.

    Attributes:
        reads: `text` or `parquet`.
    """

    who: Contender
    environment: Python
    program: str
    reads: str
    options: tuple[str, ...] = ()

    def prepare(self, cache: Path, tell: Tell) -> None:
        """Make what it needs.

        Raises:
            Missing: it cannot be had.
        """
        self.environment.get(cache, tell)

    def run(self, amounts: Amounts, folder: Path, cache: Path) -> Figure:
        """Run it once and check its sums.

        Raises:
            BenchError: it ended with an error, or its sums are wrong.
        """
        python = self.environment.get(cache, lambda _: None)
        name = f"{self.who.key}-{uuid.uuid4().hex[:8]}"
        result = folder / name
        source = amounts.parquet if self.reads == "parquet" else amounts.text
        command = [str(python), str(PROGRAMS / self.program), "--input", str(source.absolute())]
        command += ["--output", str(result), "--threads", str(THREADS), *self.options]
        # Workers of Spark are of the same Python.
        usage = metered(command, folder=folder, log=folder / f"{name}.log", environment={"PYSPARK_PYTHON": str(python)})
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


def _spark(key: str, name: str, reads: str, form: str, settings: str) -> OnFile:
    return OnFile(Contender(key, name, settings), _SPARK, "spark.py", reads, ("--form", form))


ON_FILE = (
    _spark("spark-rdd", "PySpark, RDD, text", "text", "rdd", "local[2], textFile, map, reduceByKey, saveAsTextFile"),
    _spark("spark-frame", "PySpark, DataFrame, CSV", "text", "frame", "local[2], schema given, 2 shuffle partitions"),
    _spark("spark-parquet", "PySpark, DataFrame, Parquet", "parquet", "frame", "local[2], 2 shuffle partitions"),
    OnFile(Contender("duckdb-csv", "DuckDB, CSV", "2 threads, columns given"), _DUCKDB, "duck.py", "text"),
    OnFile(Contender("duckdb-parquet", "DuckDB, Parquet", "2 threads"), _DUCKDB, "duck.py", "parquet"),
)
