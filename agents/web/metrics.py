"""What a worker can be asked to measure: the catalogue, and the text that Prometheus reads.

Names are in base units (`_seconds`, `_bytes`), counters end with `_total`, and a name's meaning does not change.
Nothing here is paid for by the record: values are counted by batch or by commit, or looked up when somebody asks.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, 0.0.4).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

from ..histogram import Histogram

__all__ = ["CONTENT_TYPE", "Metric", "Sample", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the catalogue.

    Attributes:
        labels: names of the labels, in the order of their values in a sample.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


INFO = Metric("anabranch_worker_info", "gauge", "1; what runs here.", ("app", "version", "instance", "protocol"))
READY = Metric("anabranch_ready", "gauge", "1 when /readyz says so, else 0.")
RECORDS = Metric(
    "anabranch_records_total", "counter", "Records and rows handed to agents; what a redo repeats counts once."
)
WAITING = Metric("anabranch_waiting_records", "gauge", "Records polled that no agent has taken yet.")
COMMITS = Metric("anabranch_commits_total", "counter", "Epochs committed.")
COMMIT_SECONDS = Metric("anabranch_commit_duration_seconds", "histogram", "From closed gate to written stores.")
EPOCH_AGE = Metric("anabranch_epoch_age_seconds", "gauge", "Time that what is done waits for its commit.")
REDOS = Metric("anabranch_redos_total", "counter", "Epochs dropped, their records handed over again.")
DEAD_LETTERS = Metric("anabranch_dead_letters_total", "counter", "Records set aside as dead letters.")
SKIPPED = Metric("anabranch_skipped_records_total", "counter", "Records given up without a dead letter.")
REBALANCES = Metric("anabranch_rebalances_total", "counter", "Assignments taken over.")
REBALANCE_SECONDS = Metric(
    "anabranch_rebalance_duration_seconds", "histogram", "From the first partition given up or got until all flow."
)
PARTITIONS = Metric("anabranch_assigned_partitions", "gauge", "Partitions of this worker.", ("topic",))
LAG = Metric(
    "kafka_consumergroup_lag",
    "gauge",
    "Offsets between what is committed and the partition's end; a transaction marker at the end counts as one.",
    ("consumergroup", "topic", "partition"),
)
RESTORED = Metric("anabranch_restore_records", "gauge", "Changelog records read by the running restore.")
RESTORE_LEFT = Metric("anabranch_restore_offsets_left", "gauge", "Changelog offsets the running restore has before it.")
TABLE_KEYS = Metric("anabranch_table_keys", "gauge", "Keys committed here; of tables on disk an estimate.", ("table",))
MEMORY = Metric("process_resident_memory_bytes", "gauge", "Memory of this process.")
CPU_SECONDS = Metric("process_cpu_seconds_total", "counter", "Processor time of this process, user and system.")
STARTED = Metric("process_start_time_seconds", "gauge", "When this process started, since the epoch.")


class Sample(NamedTuple):
    """A value of a metric, and the values of its labels."""

    metric: Metric
    value: float | Histogram
    labels: tuple[str, ...] = ()


def exposition(samples: Iterable[Sample]) -> str:
    """The text of samples; those of one metric have to follow each other."""
    lines: list[str] = []
    for metric, group in groupby(samples, key=lambda sample: sample.metric):
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
        for _, value, labels in group:
            if isinstance(value, Histogram):
                lines += value.lines(metric.name)
            else:
                lines.append(f"{metric.name}{_shown(metric, labels)} {value!r}")
    return "\n".join(lines) + "\n"


def _shown(metric: Metric, values: tuple[str, ...]) -> str:
    pairs = [f'{name}="{_escaped(value)}"' for name, value in zip(metric.labels, values, strict=True)]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
