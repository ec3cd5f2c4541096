"""The metrics of a worker, in Prometheus's text format.

Names are in base units (`_seconds`, `_bytes`), those of counters end with `_total`, and the meaning of a name does not
change. Metrics cost nothing per record: values are counted per batch or per commit, or read from the engine when
`/metrics` is requested.

`prometheus_client` writes the format and reads the process metrics. Its import takes 10 ms and 0.7 MB, which only
workers with a web port pay (`App._new_web`). Its own instruments are not used, because they take a lock for each
change: `WorkerCollector` reads the engine's plain counters instead.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ...topics import clock
from ...topics.topic_partition import listed
from ..event_time.channel import END_MS, NEVER_MS
from ..histogram import Histogram
from .operator_times import operator_times, operators, waiting_partitions, windowed

if TYPE_CHECKING:
    from ..runtime import Runtime

__all__ = ["CONTENT_TYPE", "WorkerCollector", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class WorkerCollector(Collector):
    """Reads the metrics of a worker when they are requested.

    Args:
        not_ready: returns why the worker is not ready; empty if it is.
    """

    def __init__(self, runtime: Runtime, not_ready: Callable[[Runtime], str]) -> None:
        self._runtime, self._not_ready = runtime, not_ready

    def collect(self) -> Iterator[Metric]:
        """Return all metrics with their current values."""
        runtime, status = self._runtime, self._runtime.status
        yield InfoMetricFamily("anabranch_worker", "The worker's app, version and group member; 1.", self._info())
        yield GaugeMetricFamily(
            "anabranch_ready", "1 if /readyz answers 200, else 0.", int(not self._not_ready(runtime))
        )
        yield CounterMetricFamily(
            "anabranch_records_total",
            "Records and rows given to agents. Reprocessing after a rollback does not count again.",
            status.records_total,
        )
        yield GaugeMetricFamily(
            "anabranch_queued_records", "Consumed records in the record queues of agents.", status.waiting
        )
        yield CounterMetricFamily("anabranch_commits_total", "Committed epochs.", status.commits_total)
        yield histogram(
            "anabranch_commit_duration_seconds",
            "Commit duration, from the barrier until the changes are in the stores.",
            status.commit_seconds,
        )
        yield GaugeMetricFamily(
            "anabranch_epoch_age_seconds",
            "Age of the oldest uncommitted epoch; 0 if there is nothing to commit.",
            status.epoch_age_s(clock.now_s()),
        )
        yield CounterMetricFamily(
            "anabranch_rollbacks_total", "Epochs that were rolled back and reprocessed.", status.rollbacks_total
        )
        yield CounterMetricFamily(
            "anabranch_dead_letters_total", "Records sent to a dead-letter topic.", status.dead_letters_total
        )
        yield CounterMetricFamily(
            "anabranch_skipped_records_total", "Failed records that were skipped.", status.skipped_total
        )
        yield from self._event_time()
        yield CounterMetricFamily("anabranch_rebalances_total", "Completed rebalances.", status.rebalances_total)
        yield histogram(
            "anabranch_rebalance_duration_seconds",
            "Rebalance duration, from the first revoked or assigned partition until all partitions are active.",
            status.rebalance_seconds,
        )
        yield from self._by_partition()
        yield from self._tables()

    def _info(self) -> dict[str, str]:
        runtime = self._runtime
        return {
            "app": runtime.app_id,
            "version": version("anabranch"),
            "instance": runtime.status.instance,
            "protocol": runtime.status.settings.group_protocol,
        }

    def _event_time(self) -> Iterator[Metric]:
        tables, of_windows = operators(self._runtime), windowed(self._runtime)
        if not tables:
            return
        late = CounterMetricFamily(
            "anabranch_late_records_total",
            "Records that count in no window because their windows were closed; `closed`: although they were on time.",
            labels=["operator", "reason"],
        )
        counts = self._runtime.status.late_total
        for operator, reason in sorted({*counts, *((table, "late") for table in of_windows)}):
            late.add_metric([operator, reason], counts.get((operator, reason), 0))
        yield late
        watermark = GaugeMetricFamily(
            "anabranch_watermark_seconds",
            "Watermark of a partition of the table, in seconds since 1970; none before it is known, +Inf at the end.",
            labels=["operator", "partition"],
        )
        windows = GaugeMetricFamily("anabranch_open_windows", "Windows that are not closed.", labels=["operator"])
        timers = GaugeMetricFamily("anabranch_timers", "Timers that have not fired.", labels=["operator"])
        held = GaugeMetricFamily(
            "anabranch_held_back_seconds",
            "For how long windows have been open and the watermark has waited for this source partition.",
            labels=["operator", "by"],
        )
        opened, waits = dict.fromkeys(tables, 0), dict[tuple[str, str], float]()
        for time in operator_times(self._runtime):
            opened[time.operator] += time.open
            if time.watermark_ms > NEVER_MS:
                seconds = math.inf if time.watermark_ms == END_MS else time.watermark_ms / 1000
                watermark.add_metric([time.operator, str(time.partition)], seconds)
            held_s = time.held_back_s(clock.now_ms())
            for at in time.held_back_by if held_s is not None else ():
                labels = time.operator, listed([at])
                waits[labels] = max(held_s or 0.0, waits.get(labels, 0.0))
        for operator, count in opened.items():
            (windows if operator in of_windows else timers).add_metric([operator], count)
        for labels, held_s in sorted(waits.items()):
            held.add_metric(labels, held_s)
        ahead = GaugeMetricFamily(
            "anabranch_partitions_waiting",
            "Source partitions whose records wait because they are far ahead of this one in event time.",
            labels=["by"],
        )
        waited_for = Counter(listed([each.waits_for]) for each in waiting_partitions(self._runtime))
        for by, count in sorted(waited_for.items()):
            ahead.add_metric([by], count)
        yield watermark
        yield ahead
        yield held
        yield windows
        yield timers
        fired = CounterMetricFamily("anabranch_fired_timers_total", "Timers that have fired.", labels=["agent"])
        for agent, count in sorted(self._runtime.status.fired_total.items()):
            fired.add_metric([agent], count)
        yield fired

    def _by_partition(self) -> Iterator[Metric]:
        status, group = self._runtime.status, self._runtime.conf.id
        assigned = GaugeMetricFamily(
            "anabranch_assigned_partitions", "Partitions assigned to this worker.", labels=["topic"]
        )
        topics = [at.topic for at in status.owned]
        for topic in sorted(set(topics)):
            assigned.add_metric([topic], topics.count(topic))
        yield assigned
        lag = GaugeMetricFamily(
            "kafka_consumergroup_lag",
            "Consumer lag: offsets between the committed offset and the end of the partition. A transaction marker at "
            "the end counts as one.",
            labels=["consumergroup", "topic", "partition"],
        )
        for at, offsets in sorted(status.lags().items()):
            lag.add_metric([group, at.topic, str(at.partition)], offsets)
        yield lag

    def _tables(self) -> Iterator[Metric]:
        progress = self._runtime.status.restoring
        yield GaugeMetricFamily(
            "anabranch_restore_records",
            "Changelog records read by the running restore; 0 if none is running.",
            progress.records if progress is not None else 0,
        )
        yield GaugeMetricFamily(
            "anabranch_restore_remaining_offsets",
            "Changelog offsets that the running restore has left to read; 0 if none is running.",
            progress.offsets_left if progress is not None else 0,
        )
        keys = GaugeMetricFamily(
            "anabranch_table_keys",
            "Committed keys of the table on this worker; an estimate for tables on disk.",
            labels=["table"],
        )
        for table in self._runtime.tables:
            keys.add_metric([table.name], sum(state.store.approximate_count() for state in table.visible_states()))
        yield keys


def histogram(name: str, help: str, values: Histogram) -> HistogramMetricFamily:
    """Return a histogram metric without labels."""
    return HistogramMetricFamily(name, help, values.buckets(), values.sum_s)


def exposition(runtime: Runtime, not_ready: Callable[[Runtime], str]) -> bytes:
    """Return the metrics of a worker and its process in Prometheus's text format; see `WorkerCollector`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(WorkerCollector(runtime, not_ready))
    ProcessCollector(registry=registry)
    return generate_latest(registry)
