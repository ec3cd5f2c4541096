"""The report: a table of medians with their range, and the targets."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import cpu_count
from typing import Any

import confluent_kafka
from measure import MEASURES, Run
from rich import box
from rich.table import Table

__all__ = ["Report", "Spread", "Target", "Weight"]

_MIB = 1024 * 1024
_TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over all repetitions."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Of at least one figure."""
        return cls(statistics.median(figures), min(figures), max(figures))


@dataclass(frozen=True, slots=True)
class Weight:
    """What the broker of the bench took.

    Attributes:
        start_s: until it answered; bytes: resident after the last run; peak_bytes: the most it had.
    """

    start_s: float
    bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Target:
    """Something to reach, and what this run reached."""

    text: str
    reached: float
    unit: str
    met: bool

    def line(self) -> str:
        """For people."""
        return f"{'✓' if self.met else '✗'} {self.text}: {self.reached:,.2f}{self.unit}"


@dataclass(frozen=True, slots=True)
class Report:
    """All runs by measure, and how they came about.

    Attributes:
        records, head: how many records the measures read; stock Faust only the head.
        load: 1-minute load average before the first run; near 0 on a machine that is free.
        broker: None where it is not ours.
    """

    records: int
    head: int
    load: float
    runs: Mapping[str, Sequence[Run]]
    broker: Weight | None

    def rate(self, key: str) -> float:
        """Median records/s of a measure; 0 where it was left out."""
        return Spread.of([run.rate for run in self.runs[key]]).median if key in self.runs else 0.0

    def table(self) -> Table:
        """The figures."""
        table = Table(box=box.SIMPLE_HEAD, title=f"{self.records:,} records; stock Faust: the first {self.head:,}")
        table.add_column("", no_wrap=True)
        columns = ("records/s", "min-max", f"{_TIMES} librdkafka", f"{_TIMES} stock", "CPU s", "peak MiB")
        columns += ("first s", "from worker")
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
        for measure in MEASURES:
            if measure.key in self.runs:
                table.add_row(measure.name, *self._row(measure.key))
        return table

    def _row(self, key: str) -> list[str]:
        runs = self.runs[key]
        rate = Spread.of([run.rate for run in runs])
        middle = {name: statistics.median(asdict(run)[name] for run in runs) for name in asdict(runs[0])}
        return [
            f"{rate.median:,.0f}",
            f"{rate.low:,.0f}-{rate.high:,.0f}",
            _ratio(rate.median, self.rate("counting"), 2),
            _ratio(rate.median, self.rate("stock"), 1),
            f"{middle['cpu_s']:.1f}",
            f"{middle['peak_bytes'] / _MIB:,.0f}",
            f"{middle['first_s']:.2f}",
            f"{middle['begun_first_s']:.2f}",
        ]

    def broker_line(self) -> str:
        """The broker's figures."""
        if self.broker is None:
            return "broker: not ours"
        now, peak = self.broker.bytes / _MIB, self.broker.peak_bytes / _MIB
        start = f"{self.broker.start_s:.1f} s to start"
        return f"embedded broker: {start}, {now:,.0f} MiB resident, {peak:,.0f} MiB at most"

    def targets(self) -> list[Target]:
        """The reach targets of which this run has the figures."""
        found: list[Target] = []
        ours, counting, stock = self.rate("record"), self.rate("counting"), self.rate("stock")
        if ours and stock:
            text = f"by record, exactly-once, against stock Faust's defaults, at least 100{_TIMES}"
            found.append(Target(text, ours / stock, _TIMES, ours / stock >= 100))
        if ours and counting:
            text = f"by record, exactly-once, against librdkafka only counting, at least 0.25{_TIMES}"
            found.append(Target(text, ours / counting, _TIMES, ours / counting >= 0.25))
        on_disk = self.rate("record-disk")
        if ours and on_disk:
            text = f"by record with its table in RocksDB, against one in memory, at least 0.5{_TIMES}"
            found.append(Target(text, on_disk / ours, _TIMES, on_disk / ours >= 0.5))
        for key, text, least in (
            ("flow", "flow by the record's key", 1.0),
            ("flow-key-by", "flow with key_by", 0.8),
        ):
            if ours and self.rate(key):
                text = f"{text}, against the agent by record, in CPU time, at least {least}{_TIMES}"
                ratio = self._work_cpu_s("record") / self._work_cpu_s(key)
                found.append(Target(text, ratio, _TIMES, ratio >= least))
        if ours:
            first_s = Spread.of([run.first_s for run in self.runs["record"]]).median
            text = "first record against a running broker, from the start of the process, at most 1.5 s"
            found.append(Target(text, first_s, " s", first_s <= 1.5))
        return found

    def _work_cpu_s(self, key: str) -> float:
        return statistics.median(run.work_cpu_s for run in self.runs[key])

    def facts(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {
            "records": self.records,
            "head": self.head,
            "machine": {
                "cpus": cpu_count(),
                "load_before": self.load,
                "platform": platform.platform(),
                "python": platform.python_version(),
                "librdkafka": confluent_kafka.libversion()[0],
            },
            "broker": None if self.broker is None else asdict(self.broker),
            "measures": {
                key: {
                    "median": {name: statistics.median(asdict(r)[name] for r in runs) for name in asdict(runs[0])},
                    "runs": [asdict(run) for run in runs],
                }
                for key, runs in self.runs.items()
            },
            "targets": [asdict(target) for target in self.targets()],
        }


def _ratio(figure: float, base: float, digits: int) -> str:
    return f"{figure / base:,.{digits}f}" if base else "-"
