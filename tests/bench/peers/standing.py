"""How all contenders stand: tables, the targets, and the facts for a file. Ratios are of medians, all of one run."""

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

from .figure import Contender, Figure, median

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
        return Spread.of([figure.rate for figure in self.figures[key]]).median if key in self.figures else 0.0

    def ratio(self, key: str) -> float:
        """How many times as fast as this one the base is; 0 where one of them was not measured."""
        rate = self.rate(key)
        return self.rate(self.base) / rate if rate else 0.0

    def table(self) -> Table:
        """The figures."""
        table = Table(box=box.SIMPLE_HEAD, title=self.title)
        table.add_column("", no_wrap=True)
        for column in (f"{self.unit}/s", "min-max", f"anabranch is {_TIMES}", "seconds", "CPU s", "peak MiB"):
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
        figures = self.figures[who.key]
        rates = Spread.of([figure.rate for figure in figures])
        middle, ratio = median(figures), self.ratio(who.key)
        return [
            f"{rates.median:,.0f}",
            f"{rates.low:,.0f}-{rates.high:,.0f}",
            f"{ratio:.2f}" if ratio and who.key != self.base else "-",
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
                    "rate": self.rate(who.key),
                    "base_is_times": self.ratio(who.key),
                    "runs": [asdict(figure) for figure in self.figures[who.key]],
                }
                for who in self.contenders
                if who.key in self.figures
            },
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """Both fields.

    Attributes:
        load: 1-minute load average before the first run; near 0 on a machine that is free.
    """

    on_topic: Field
    on_file: Field
    load: float

    def targets(self) -> list[Target]:
        """The reach targets of which this run has the figures."""
        wanted = (
            (self.on_topic, "streams", 2.0, "by record, exactly-once, against Kafka Streams' at 100 ms"),
            (self.on_topic, "quix", 8.0, "by record, exactly-once, against Quix Streams'"),
            (self.on_file, "spark-rdd", 4.0, "packed bounded run, against PySpark's RDD job"),
        )
        return [
            Target(f"{text}, at least {least:.0f}{_TIMES}", reached, _TIMES, reached >= least)
            for field, key, least, text in wanted
            if (reached := field.ratio(key))
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
            "on_file": self.on_file.facts(),
            "targets": [asdict(target) for target in self.targets()],
        }
