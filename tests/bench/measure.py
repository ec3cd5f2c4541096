"""A measurement: a program, and one run of it in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec
from anabranch.topics.admin import Admin
from anabranch.topics.cluster import Cluster
from confluent_kafka import TopicPartition
from records import PARTITIONS, Truth, read_totals, truth_of
from run_outcome import Outcome

__all__ = ["MEASURES", "BenchError", "Measure", "Run", "Source", "waited"]

_HERE = Path(__file__).parent
_PATIENCE_S = 900.0


class BenchError(Exception):
    """A run that gave no result, or a wrong one."""


@dataclass(frozen=True, slots=True)
class Source:
    """A filled topic, and what its records add up to."""

    cluster: Cluster
    topic: str
    truth: Truth


@dataclass(frozen=True, slots=True)
class Run:
    """Figures of one run.

    Attributes:
        rate: records a second, from the first record handed over until all are done.
        cpu_s: user and system time of the whole process, start and end included.
        first_s: from the start of the process to the first record; begun_first_s: from the start of the worker in it.
        work_cpu_s: user and system time from the start of the worker until all are done; 0 where it is not measured.
    """

    rate: float
    seconds: float
    cpu_s: float
    peak_bytes: int
    first_s: float
    begun_first_s: float
    work_cpu_s: float


@dataclass(frozen=True, slots=True)
class Measure:
    """A program to measure.

    Attributes:
        name: in tables; key: in files.
        script: beside this file; options: what it is given beyond the common ones.
        keeps_table: it has a data folder, and a table with a changelog to look at.
        head_only: too slow for all records; it gets the first of them.
    """

    key: str
    name: str
    script: str
    options: tuple[str, ...] = ()
    keeps_table: bool = True
    head_only: bool = False

    def run(self, source: Source, folder: Path) -> Run:
        """Run it once and check its result.

        Raises:
            BenchError: it ended with an error, took too long, or its sums are wrong; the log is named.
        """
        name = f"bench-{self.key}-{uuid.uuid4().hex[:8]}"
        out, log = folder / f"{name}.json", folder / f"{name}.log"
        command = [
            *(sys.executable, str(_HERE / self.script)),
            *("--bootstrap-server", source.cluster.bootstrap_servers, "--topic", source.topic),
            *("--records", str(source.truth.records), "--name", name, "--out", str(out), *self.options),
            *(("--total", str(source.truth.total)) if self.script == "worker.py" else ()),
            *(("--data", str(folder / name)) if self.keeps_table else ()),
        ]
        with log.open("wb") as logged:
            started_at = time.time()
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=logged, stderr=logged, cwd=folder)
            cpu_s = waited(process)
        if process.returncode != 0 or not out.exists():
            raise BenchError(f"{self.name}: ended with {process.returncode}, see {log}\n{_tail(log)}")
        outcome = Outcome.read(out)
        self._check(source, name, outcome)
        return Run(
            rate=outcome.records / outcome.seconds,
            seconds=outcome.seconds,
            cpu_s=cpu_s,
            peak_bytes=outcome.peak_bytes,
            first_s=outcome.first_at - started_at,
            begun_first_s=outcome.first_at - outcome.begun_at,
            work_cpu_s=outcome.cpu_s,
        )

    def _check(self, source: Source, name: str, outcome: Outcome) -> None:
        if outcome.records != source.truth.records:
            raise BenchError(f"{self.name}: {outcome.records:,} records instead of {source.truth.records:,}")
        if outcome.found is None:
            # Partitions are read in order, so the right count means each record once.
            partitions = [TopicPartition(source.topic, partition) for partition in range(PARTITIONS)]
            there = sum(Admin(source.cluster).ends(partitions).values())
            if outcome.records != there:
                raise BenchError(f"{self.name}: {outcome.records:,} records counted, {there:,} in the topic")
            return
        wrong = source.truth.differs(outcome.found)
        if wrong:
            raise BenchError(f"{self.name}: the table is wrong: {wrong}")
        changelog = f"{name}-totals-changelog"
        if not self.head_only:
            totals = read_totals(source.cluster, changelog, msgspec.json.decode)
            wrong = source.truth.differs(truth_of(totals, outcome.records))
            if wrong:
                raise BenchError(f"{self.name}: the changelog is wrong: {wrong}")
        Admin(source.cluster).delete([changelog])


MEASURES = (
    Measure("counting", "librdkafka, only counting", "librdkafka_count.py", keeps_table=False),
    Measure("record", "agent by record, exactly-once", "worker.py", ("--style", "record")),
    Measure(
        "record-alo",
        "agent by record, at-least-once",
        "worker.py",
        ("--style", "record", "--guarantee", "at_least_once"),
    ),
    Measure(
        "record-disk", "agent by record, table in RocksDB", "worker.py", ("--style", "record", "--store", "rocksdb://")
    ),
    Measure("batch", "agent by batch, exactly-once", "worker.py", ("--style", "batch")),
    Measure("flow", "flow by the record's key, exactly-once", "worker.py", ("--style", "flow")),
    Measure("flow-key-by", "flow with key_by, exactly-once", "worker.py", ("--style", "flow-key-by")),
    Measure("stock", "stock Faust, defaults", "stock_faust.py", head_only=True),
)


def waited(process: subprocess.Popen[bytes], patience_s: float = _PATIENCE_S) -> float:
    """Wait for the end; returns CPU seconds, with those of what it has started and waited for.

    Only `wait4` gives those of one child and not of all so far.
    """
    ender = threading.Timer(patience_s, os.kill, (process.pid, 9))
    ender.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        ender.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
