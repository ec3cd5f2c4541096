"""Restoring: stores are brought to the end of their changelogs before an agent sees a record.

Order of things, each step needed by the next:
1. The worker's `init_transactions` has ended what a dead predecessor left open.
2. The end is the *uncommitted* one. A stable offset can be visible before the changelog partition has its transaction
   marker (KAFKA-10167); the committed end would miss the predecessor's last epoch.
3. Read `read_committed` until the position reaches that end. Markers and aborted records occupy offsets, so counting
   records cannot tell.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from confluent_kafka import TopicPartition

from ..topics.admin import Admin
from ..topics.client import Cluster
from ..topics.errors import Stop
from ..topics.reading import read_to_end
from .aside import aside
from .assignment import Assignment
from .group import Group
from .shelf import Shelf
from .state import PartitionState
from .store import Changes
from .table import Table

__all__ = ["RestoreProgress", "refuse_counting_twice", "restore", "restore_beside"]

logger = logging.getLogger(__name__)

_QUEUED = 200_000
_KEEP_ALIVE_S = 0.05
_STALLED_S = 120.0

Key = tuple[str, int]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class RestoreProgress:
    """How far a restore is.

    Attributes:
        records: read so far; offsets_left: between the positions and the ends, markers counted.
        started_s: monotonic clock.
    """

    records: int = 0
    offsets_left: int = 0
    started_s: float = 0.0


def restore(
    cluster: Cluster,
    admin: Admin,
    states: dict[Key, PartitionState],
    on_progress: Callable[[RestoreProgress], None] | None = None,
) -> RestoreProgress:
    """Bring stores to the end of their changelogs (blocking; run it beside the event loop).

    Args:
        states: (changelog topic, partition) -> the state to restore, from its store's position.

    Raises:
        Stop: the changelog's records before the store's position are gone, or the broker stopped answering.
    """
    progress = RestoreProgress(started_s=time.monotonic())
    partitions = [TopicPartition(topic, partition) for topic, partition in states]
    ends, begins = admin.ends(partitions), admin.begins(partitions)
    todo: dict[Key, int] = {}
    for at, state in states.items():
        if state.store.position > ends[at]:
            # The changelog was deleted and made anew, or the store is another cluster's.
            raise Stop(
                f"the local store of {at[0]} partition {at[1]} stands at {state.store.position}, beyond the "
                f"changelog's end {ends[at]}",
                hint="was the changelog topic deleted? Start the worker again to rebuild from what is there",
            )
        state.store.position = max(state.store.position, begins[at])
        state.store.mark(at_end=False)
        if ends[at] > state.store.position:
            todo[at] = ends[at]
    if todo:
        _restore(cluster, states, todo, progress, on_progress)
    for state in states.values():
        state.store.mark(at_end=True)
        state.check_content()
    return progress


def _restore(
    cluster: Cluster,
    states: dict[Key, PartitionState],
    todo: dict[Key, int],
    progress: RestoreProgress,
    on_progress: Callable[[RestoreProgress], None] | None,
) -> None:
    starts = {at: states[at].store.position for at in todo}
    for run in read_to_end(cluster, starts, todo, stalled_s=_STALLED_S, queued_messages=_QUEUED):
        _apply(states[run.at], run.messages, run.position)
        progress.records += len(run.messages)
        progress.offsets_left = sum(max(0, end - states[at].store.position) for at, end in todo.items())
        if on_progress is not None:
            on_progress(progress)
    for state in states.values():
        state.forget_view()


async def restore_beside(
    shelf: Shelf,
    admin: Admin,
    tables: Iterable[Table],
    group: Group,
    on_progress: Callable[[RestoreProgress], None],
) -> None:
    """`restore` this worker's partitions of tables, beside the event loop; meanwhile the group hears of us."""
    partitions = {at.partition for at in group.owned}
    wanted = [(table, p) for table in tables for p in partitions if p < table.changelog_partitions]
    stores = await _beside(group, shelf.open, admin, wanted)
    partitions = {at.partition for at in group.owned}  # opening takes a while: some may have gone
    states = {
        (table.changelog_name, p): table.add_partition(p, stores.get((table.name, p)))
        for table, p in wanted
        if p in partitions
    }
    if not states:
        return
    progress = await _beside(group, restore, shelf.cluster, admin, states, on_progress)
    if progress.records:
        seconds = time.monotonic() - progress.started_s
        logger.info("restored %s records in %.2f s", f"{progress.records:,}", seconds)


async def _beside(group: Group, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    task = asyncio.ensure_future(aside(call, *args, **kwargs))
    while not task.done():
        await asyncio.wait({task}, timeout=_KEEP_ALIVE_S)
        group.keep_alive()
    return task.result()


def refuse_counting_twice(group: str, tables: Iterable[Table], assignment: Assignment) -> None:
    """The beginning of a topic is right only where nothing was ever committed and the tables are empty.

    Raises:
        Stop: the offsets are gone, the tables' content is not.
    """
    for at in assignment.uncommitted:
        content = [t.name for t in tables if at.partition in t.states and len(t.states[at.partition].store)]
        if content and not assignment.committed_beside(at):
            raise Stop(
                f"group {group} has no committed offsets, but table {content[0]} has content: "
                f"reading {at.topic} from its beginning would count history twice",
                hint="offsets expire after a week without a member: set them with kafka-consumer-groups, or delete "
                f"the changelog topics of {group} to compute everything anew",
            )


def _apply(state: PartitionState, run: list[Any], position: int) -> None:
    # Within a run a key can come several times: a dict keeps the last.
    last = {m.key(): m.value() for m in run if m.key() is not None}
    values = list(last.values())
    state.store.apply(Changes(list(last), values, deletes=None in values), position)
