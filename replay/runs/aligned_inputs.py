"""Inputs of a bounded run that are aligned by event time: several topics, replayed together with `--time`.

The files of one topic are merged by time when they are replayed. Several topics are aligned when they are processed
(`agents/engine/alignment.py`), so that agents that look into each other's tables have one result. What cannot be
aligned is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ...agents.tables.global_table import GlobalTable
from ...topics.errors import Usage
from ...topics.topic_partition import TopicPartition
from .inputs import Input

__all__ = ["aligned_phases", "ends_of_partitions", "refuse_global_tables", "refuse_uneven"]

_THEN = "--then TOPIC=PATH gives an input that starts when those before it are processed"


def aligned_phases(
    inputs: Sequence[Input],
    topics: Sequence[str],
    timed: Sequence[bool],
    *,
    by_time: bool = False,
    packed: bool = False,
    into_live: bool = False,
) -> dict[int, list[str]]:
    """Return the phases whose topics are aligned by event time, with their topics.

    These are the phases with several inputs, for which a time or order by time was requested.

    Args:
        topics: the topics of the inputs, in their order.
        timed: whether the records of the inputs have times of their own.
        by_time: order by time was requested, whether or not a field with the time is named.
        packed: the inputs are sent as packed batches.
        into_live: the inputs go into live topics.

    Raises:
        Usage: the inputs of such a phase cannot be aligned.
    """
    aligned: dict[int, list[str]] = {}
    for phase in sorted({given.phase for given in inputs}):
        found = [at for at, given in enumerate(inputs) if given.phase == phase]
        if len(found) < 2 or not (by_time or any(inputs[at].format.time for at in found)):
            continue
        names = sorted({topics[at] for at in found})
        if len(names) < len(found):
            twice = next(name for name in names if [topics[at] for at in found].count(name) > 1)
            raise Usage(
                f"the inputs of {twice} have different options, so they would not be merged by time",
                hint="name the topic with each: --input TOPIC=PATH --input TOPIC=PATH",
            )
        together = f"several inputs with --time ({', '.join(names)})"
        if into_live:
            raise Usage(f"{together} are not aligned with live records", hint=_THEN)
        if packed:
            raise Usage(f"{together} are not aligned in packed batches", hint=f"omit --pack; or {_THEN}")
        if untimed := sorted(topics[at] for at in found if not timed[at]):
            raise Usage(
                f"{together}: the records of {', '.join(untimed)} have no time, so the topics cannot be aligned by it",
                hint=f"--time TOPIC=FIELD; or {_THEN}",
            )
        if again := sorted({topics[at] for at in range(len(inputs)) if at not in found} & {*names}):
            raise Usage(
                f"{together}: {', '.join(again)} has another input in another phase, so it does not end with this one",
                hint="one input for each topic",
            )
        aligned[phase] = names
    return aligned


def refuse_global_tables(tables: Iterable[object], aligned: Mapping[int, Sequence[str]]) -> None:
    """Refuse inputs that are aligned in the first phase if the app has a GlobalTable.

    The copies of a GlobalTable follow the commits of the worker that writes it, and not event time.

    Raises:
        Usage: the app has one.
    """
    names = sorted(table.name for table in tables if isinstance(table, GlobalTable))
    if names and 0 in aligned:
        raise Usage(
            f"several inputs with --time ({', '.join(aligned[0])}), and a GlobalTable ({', '.join(names)}): what "
            "agents see of it depends on commits, and not on the times of records",
            hint="--then TOPIC=PATH for the inputs whose agents read it: it is complete then",
        )


def refuse_uneven(aligned: Mapping[int, Sequence[str]], counts: Mapping[str, int]) -> None:
    """Refuse topics that are aligned, and have different numbers of partitions.

    Raises:
        Usage: there are such topics.
    """
    for topics in aligned.values():
        if len({counts[topic] for topic in topics}) > 1:
            told = ", ".join(f"{topic} {counts[topic]}" for topic in topics)
            raise Usage(
                f"several inputs with --time, and different numbers of partitions ({told}): equal keys are in "
                "different partitions, so the topics cannot be aligned",
                hint=f"declare the same number: app.topic(…, partitions=…); or {_THEN}",
            )


def ends_of_partitions(
    topics: Collection[str], counts: Mapping[str, int], ends: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Return where the history of each partition ends, as offsets: 0 for partitions without records."""
    every = (TopicPartition(topic, number) for topic in topics for number in range(counts[topic]))
    return {at: ends.get(at, 0) for at in every}
