"""The inputs of a simulation, read from files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ...agents.app import App
from ...agents.topic import Topic
from ...topics.errors import Usage
from ..runs.inputs import Input as FileInput
from ..runs.inputs import declared_types
from ..source_resolver import resolve_source
from ..sources.file_history import FileHistory
from ..sources.source import Replayable
from .simulated_world import Input

__all__ = ["inputs_of_files"]

MOST_RECORDS = 100_000
"""A simulation processes its inputs hundreds of times, and keeps them in memory."""


def inputs_of_files(app: App, asked: Iterable[FileInput]) -> dict[str, list[Input]]:
    """Read the inputs of an app: topic -> its records, in the order of the files.

    Raises:
        Usage: the app does not read the topic, a file does not exist, or there are more than `MOST_RECORDS` records.
        BadLine: a line is no record.
    """
    topics = {name: topic for name, topic in _topics_of(app).items() if not topic.has_prefix}
    inputs: dict[str, list[Input]] = {}
    for each in asked:
        name = _topic(app, each.topic, topics)
        history = resolve_source(each.specs, each.format)
        if isinstance(history, FileHistory):
            history = history.with_declared_types(declared_types(topics[name].value_type))
        records = inputs.setdefault(name, [])
        _read(history, records)
        if not records:
            raise Usage(f"{', '.join(each.specs)}: no records")
    return inputs


def _read(history: Replayable, records: list[Input]) -> None:
    source = history.open()
    try:
        while not source.ended:
            batch = source.next_batch()
            for bad in batch.bad:
                raise bad
            records += [Input(value, key=key, timestamp_ms=time_ms) for key, value, time_ms, _, _ in batch.records]
            if len(records) > MOST_RECORDS:
                raise Usage(
                    f"more than {MOST_RECORDS:,} records: each world processes all of them",
                    hint="take the first thousands: head -n 5000 orders.csv > some.csv",
                )
    finally:
        source.close()


def _topics_of(app: App) -> Mapping[str, Topic]:
    channels = [agent.channel for agent in app.agents.values()]
    return {name: channel for channel in channels if isinstance(channel, Topic) for name in channel.topics}


def _topic(app: App, name: str | None, topics: Mapping[str, Topic]) -> str:
    listed: Sequence[str] = sorted(topics)
    if name is None and len(listed) == 1:
        return listed[0]
    if name is None:
        raise Usage(f"app {app.conf.id} reads {', '.join(listed) or 'no topics'}", hint="--input TOPIC=PATH")
    if name not in topics:
        raise Usage(f"app {app.conf.id} reads no topic {name}", hint=f"it reads: {', '.join(listed) or 'none'}")
    return name
