"""The standings of all contenders: tables, targets, and facts for a file.

Figures are medians over the turns, with their range. A ratio is that of two runs of one turn; what is shown is the
median of the turns' ratios, and their range.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import confluent_kafka
from report import Spread, Target
from rich import box
from rich.table import Table

from .contender_result import Contender, Figure, median

__all__ = ["Field", "Standing"]

_MIB = 1024 * 1024
_TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True)
class Field:
    """Those who do the same work on the same data.

    Attributes:
        unit: what a rate counts, a second; base: key of the contender of ours that ratios are to.
        figures: by key, of those who were measured; left_out: by key, why they were not.
    """

    title: str
    unit: str
    base: str
    contenders: Sequence[Contender]
    figures: Mapping[str, Sequence[Figure]]
    left_out: Mapping[str, str]

    def rate(self, key: str) -> float:
        """Median rate; 0 of those who were not measured."""
        return self.range(key).median if key in self.figures else 0.0

    def range(self, key: str) -> Spread:
        """Median, lowest and highest rate of one who was measured."""
        return Spread.of([figure.rate for figure in self.figures[key]])

    def ratios(self, key: str, base: str = "") -> Spread | None:
        """How many times as fast as this one the base is, turn by turn; None where one of them was not measured."""
        base = base or self.base
        if key not in self.figures or base not in self.figures:
            return None
        turns = zip(self.figures[base], self.figures[key], strict=True)
        return Spread.of([ours.rate / theirs.rate for ours, theirs in turns])

    def table(self) -> Table:
        """The figures."""
        table = Table(box=box.SIMPLE_HEAD, title=self.title)
        table.add_column("", no_wrap=True)
        for column in (
            f"{self.unit}/s",
            "min-max",
            f"anabranch is {_TIMES}",
            "min-max",
            "seconds",
            "CPU s",
            "peak MiB",
        ):
            table.add_column(column, justify="right", no_wrap=True)
        for who in self.contenders:
            if who.key in self.figures:
                table.add_row(who.name, *self._row(who))
            elif who.key in self.left_out:
                table.add_row(who.name, "left out")
        return table

    def notes(self) -> list[str]:
        """Who is left out, and why."""
        missing = (who for who in self.contenders if who.key in self.left_out)
        return [f"left out: {who.name}: {self.left_out[who.key]}" for who in missing]

    def _row(self, who: Contender) -> list[str]:
        figures, rates = self.figures[who.key], self.range(who.key)
        middle, ratios, times = median(figures), self.ratios(who.key), ("-", "-")
        if ratios is not None and who.key != self.base:
            times = f"{ratios.median:.2f}", f"{ratios.low:.2f}-{ratios.high:.2f}"
        return [
            f"{rates.median:,.0f}",
            f"{rates.low:,.0f}-{rates.high:,.0f}",
            *times,
            f"{middle.seconds:.1f}",
            f"{middle.cpu_s:.1f}",
            f"{middle.peak_bytes / _MIB:,.0f}",
        ]

    def facts(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {
            "title": self.title,
            "unit": f"{self.unit}/s",
            "base": self.base,
            "left_out": dict(self.left_out),
            "contenders": {
                who.key: {
                    "name": who.name,
                    "settings": who.settings,
                    "ours": who.ours,
                    "rate": asdict(self.range(who.key)),
                    "base_is_times": None if (ratios := self.ratios(who.key)) is None else asdict(ratios),
                    "runs": [asdict(figure) for figure in self.figures[who.key]],
                }
                for who in self.contenders
                if who.key in self.figures
            },
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """All fields.

    Attributes:
        load: 1-minute load average before the first run; near 0 on a machine that is free.
    """

    on_topic: Field
    on_windows: Field
    on_file: Field
    load: float

    def targets(self) -> list[Target]:
        """The reach targets of which this run has the figures; one is met where every turn has met it."""
        topic, windows, file = self.on_topic, self.on_windows, self.on_file
        wanted = (
            (topic, "record", "streams", 2.0, "one worker, against Kafka Streams' two threads at 100 ms"),
            (topic, "record-2", "streams", 2.0, "two workers, against Kafka Streams' two threads at 100 ms"),
            (topic, "record-2", "flink", 1.0, "two workers, against Flink's two slots"),
            (topic, "record", "quix", 8.0, "one worker, against Quix Streams"),
            (
                windows,
                "windows",
                "streams-windows",
                2.0,
                "windows, one worker, against Kafka Streams' two threads",
            ),
            (windows, "windows-2", "streams-windows", 2.0, "windows, two workers, against Kafka Streams' two threads"),
            (windows, "windows-2", "flink-windows", 1.0, "windows, two workers, against Flink's two slots"),
            (windows, "windows", "quix-windows", 8.0, "windows, one worker, against Quix Streams"),
            (file, "packed", "spark-rdd", 4.0, "packed bounded run, against PySpark's RDD job"),
        )
        return [
            Target(
                f"{text}, at least {least:.0f}{_TIMES} in every turn ({ratios.low:.2f} to {ratios.high:.2f})",
                ratios.median,
                _TIMES,
                ratios.low >= least,
            )
            for field, ours, theirs, least, text in wanted
            if (ratios := field.ratios(theirs, ours)) is not None
        ]

    def facts(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {
            "machine": {
                "cpus": os.cpu_count(),
                "load_before": self.load,
                "platform": platform.platform(),
                "python": platform.python_version(),
                "librdkafka": confluent_kafka.libversion()[0],
            },
            "on_topic": self.on_topic.facts(),
            "on_windows": self.on_windows.facts(),
            "on_file": self.on_file.facts(),
            "targets": [asdict(target) for target in self.targets()],
        }
