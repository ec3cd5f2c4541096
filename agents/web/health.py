"""How a worker is: alive, ready, and its figures, read from its parts at the moment somebody asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ...topics import clock
from . import metrics
from .metrics import Sample

if TYPE_CHECKING:
    from ..runtime import Runtime

__all__ = ["not_alive", "not_ready", "samples"]

_STARTED_S = clock.now_ms() / 1000


def not_alive(runtime: Runtime, now_s: float) -> str:
    """Why this process should be killed and started again; empty while it is well.

    Waiting for a broker, restoring, having no partitions: all of that is alive. Who answers at all has an event loop
    that turns.

    Args:
        now_s: monotonic.
    """
    status = runtime.status
    if runtime.stopped_by is not None:
        return f"ending: {runtime.stopped_by}"
    if status.ended:
        return "the engine has ended"
    limit_s = status.settings.max_poll_interval_ms / 1000
    busy_s = status.busy_s(now_s)
    if busy_s > limit_s:
        return f"an agent has been at one record for {busy_s:.0f} s, the limit is {limit_s:.0f} s"
    return ""


def not_ready(runtime: Runtime) -> str:
    """Why this worker should not be relied on at the moment; empty if it can be."""
    status = runtime.status
    if status.gone:
        return f"agent {', '.join(status.gone)} is gone"
    if runtime.stop_requested.is_set():
        return "ending"
    if not status.ready.is_set():
        return _restoring(runtime) or "no partitions assigned yet"
    if status.rebalancing:
        return _restoring(runtime) or "rebalancing"
    limit, lag = status.settings.ready_lag_records, sum(status.lags().values())
    if limit is not None and lag > limit:
        return f"{lag:,} records behind, the limit is {limit:,}"
    return ""


def _restoring(runtime: Runtime) -> str:
    progress = runtime.status.restoring
    return f"restoring tables: {progress.offsets_left:,} offsets left" if progress is not None else ""


def samples(runtime: Runtime, now_s: float) -> Iterator[Sample]:
    """Everything of the catalogue that there is a value for.

    Args:
        now_s: monotonic.
    """
    status, group = runtime.status, runtime.conf.id
    about = (runtime.app_id, version("anabranch"), status.instance, status.settings.group_protocol)
    yield Sample(metrics.INFO, 1, about)
    yield Sample(metrics.READY, int(not not_ready(runtime)))
    yield Sample(metrics.RECORDS, status.records_total)
    yield Sample(metrics.WAITING, status.waiting)
    yield Sample(metrics.COMMITS, status.commits_total)
    yield Sample(metrics.COMMIT_SECONDS, status.commit_seconds)
    yield Sample(metrics.EPOCH_AGE, status.epoch_age_s(now_s))
    yield Sample(metrics.REDOS, status.redos_total)
    yield Sample(metrics.DEAD_LETTERS, status.dead_letters_total)
    yield Sample(metrics.SKIPPED, status.skipped_total)
    yield Sample(metrics.REBALANCES, status.rebalances_total)
    yield Sample(metrics.REBALANCE_SECONDS, status.rebalance_seconds)
    topics = [at.topic for at in status.owned]
    for topic in sorted(set(topics)):
        yield Sample(metrics.PARTITIONS, topics.count(topic), (topic,))
    for at, lag in sorted(status.lags().items()):
        yield Sample(metrics.LAG, lag, (group, at.topic, str(at.partition)))
    progress = status.restoring
    yield Sample(metrics.RESTORED, progress.records if progress is not None else 0)
    yield Sample(metrics.RESTORE_LEFT, progress.offsets_left if progress is not None else 0)
    for table in runtime.tables:
        keys = sum(state.store.approximate_count() for state in table.visible_states())
        yield Sample(metrics.TABLE_KEYS, keys, (table.name,))
    yield Sample(metrics.MEMORY, _resident_bytes())
    yield Sample(metrics.CPU_SECONDS, time.process_time())
    yield Sample(metrics.STARTED, _STARTED_S)


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
