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
    from ..app import App

__all__ = ["not_alive", "not_ready", "samples"]

_STARTED_S = clock.now_ms() / 1000


def not_alive(app: App, now_s: float) -> str:
    """Why this process should be killed and started again; empty while it is well.

    Waiting for a broker, restoring, having no partitions: all of that is alive. Who answers at all has an event loop
    that turns.

    Args:
        now_s: monotonic.
    """
    engine = app.engine
    if app.stopped_by is not None:
        return f"ending: {app.stopped_by}"
    if engine.ended:
        return "the engine has ended"
    limit_s = engine.settings.max_poll_interval_ms / 1000
    busy_s = engine.busy_s(now_s)
    if busy_s > limit_s:
        return f"an agent has been at one record for {busy_s:.0f} s, the limit is {limit_s:.0f} s"
    return ""


def not_ready(app: App) -> str:
    """Why this worker should not be relied on at the moment; empty if it can be."""
    engine = app.engine
    if engine.gone:
        return f"agent {', '.join(engine.gone)} is gone"
    if app.stop_requested.is_set():
        return "ending"
    if not engine.ready.is_set():
        return _restoring(app) or "no partitions assigned yet"
    if engine.rebalancing:
        return _restoring(app) or "rebalancing"
    limit, lag = engine.settings.ready_lag_records, sum(engine.lags().values())
    if limit is not None and lag > limit:
        return f"{lag:,} records behind, the limit is {limit:,}"
    return ""


def _restoring(app: App) -> str:
    progress = app.engine.restoring
    return f"restoring tables: {progress.offsets_left:,} offsets left" if progress is not None else ""


def samples(app: App, now_s: float) -> Iterator[Sample]:
    """Everything of the catalogue that there is a value for.

    Args:
        now_s: monotonic.
    """
    engine, group = app.engine, app.conf.id
    about = (app.declared_id, version("anabranch"), engine.instance, engine.settings.group_protocol)
    yield Sample(metrics.INFO, 1, about)
    yield Sample(metrics.READY, int(not not_ready(app)))
    yield Sample(metrics.RECORDS, engine.records_total)
    yield Sample(metrics.WAITING, engine.waiting)
    yield Sample(metrics.COMMITS, engine.commits_total)
    yield Sample(metrics.COMMIT_SECONDS, engine.commit_seconds)
    yield Sample(metrics.EPOCH_AGE, engine.epoch_age_s(now_s))
    yield Sample(metrics.REDOS, engine.redos_total)
    yield Sample(metrics.DEAD_LETTERS, engine.dead_letters_total)
    yield Sample(metrics.SKIPPED, engine.skipped_total)
    yield Sample(metrics.REBALANCES, engine.rebalances_total)
    yield Sample(metrics.REBALANCE_SECONDS, engine.rebalance_seconds)
    topics = [at.topic for at in engine.owned]
    for topic in sorted(set(topics)):
        yield Sample(metrics.PARTITIONS, topics.count(topic), (topic,))
    for at, lag in sorted(engine.lags().items()):
        yield Sample(metrics.LAG, lag, (group, at.topic, str(at.partition)))
    progress = engine.restoring
    yield Sample(metrics.RESTORED, progress.records if progress is not None else 0)
    yield Sample(metrics.RESTORE_LEFT, progress.offsets_left if progress is not None else 0)
    for table in app.live_tables:
        keys = sum(state.store.about() for state in table.held())
        yield Sample(metrics.TABLE_KEYS, keys, (table.name,))
    yield Sample(metrics.MEMORY, _resident_bytes())
    yield Sample(metrics.CPU_SECONDS, time.process_time())
    yield Sample(metrics.STARTED, _STARTED_S)


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
