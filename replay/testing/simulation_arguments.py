"""The arguments of a simulation, checked: one that is misunderstood would let the simulation compare nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import cast

from ...agents.app import App
from ...agents.runtime import runtime_of
from ...topics.dead_letter import LATE_SUFFIX, SUFFIX
from ...topics.errors import Usage
from ...topics.spelling import did_you_mean
from .simulated_world import Input
from .world_names import check_name, check_partitions

__all__ = ["check_names", "check_numbers", "check_read", "input_records", "names_of", "packed_topics"]


def check_numbers(seeds: Sequence[int], workers: int, partitions: Mapping[str, int] | None) -> None:
    """Refuse a simulation that runs no world, or has no worker.

    Raises:
        Usage: there is none, or a topic has a number of partitions that it cannot have.
    """
    if not seeds:
        raise Usage("a simulation of no worlds", hint="seeds=100")
    if workers < 1:
        raise Usage(f"a simulation with {workers} workers")
    if partitions is not None and not isinstance(cast(object, partitions), Mapping):
        raise Usage(f"partitions={partitions!r} names no topic", hint='partitions={"orders": 4}')
    check_partitions(partitions)


def input_records(inputs: Mapping[str, Iterable[object]]) -> dict[str, list[Input]]:
    """Return the records of each input topic.

    Raises:
        Usage: there are none, or they are not given as topic -> records.
    """
    if not isinstance(cast(object, inputs), Mapping):
        raise Usage("inputs are given by topic", hint='inputs={"orders": [{"user": "ann", "amount": 3}, …]}')
    found: dict[str, list[Input]] = {}
    for topic, records in inputs.items():
        check_name(topic, "topic")
        if isinstance(records, Mapping | str | bytes) or not isinstance(cast(object, records), Iterable):
            raise Usage(
                f"the input of topic {topic} is one {type(records).__name__}, and no list of records",
                hint='inputs={"orders": [("ann", {"user": "ann", "amount": 3}), …]}: pairs of key and value, or values',
            )
        found[topic] = [_input(record) for record in records]
    if not any(found.values()):
        raise Usage("a simulation without inputs", hint='inputs={"orders": [{"user": "ann", "amount": 3}, …]}')
    return found


def _input(record: object) -> Input:
    if isinstance(record, Input):
        return record
    if isinstance(record, tuple) and len(record) == 2:  # pyright: ignore[reportUnknownArgumentType]
        key, value = record  # pyright: ignore[reportUnknownVariableType]
        return Input(value, key=key)
    return Input(record)


def check_read(app: App, unread: Iterable[str]) -> None:
    """Refuse inputs that no worker of a world has read. What `through` reads, for one, is known no earlier.

    Raises:
        Usage: there is one.
    """
    described = runtime_of(app).described
    for topic in unread:
        raise Usage(f"app {app.conf.id} reads no topic {topic!r}", hint=did_you_mean(topic, {*described} - {topic}))


def names_of(option: str, given: Iterable[str]) -> tuple[str, ...]:
    """Return the names that an option gives.

    Raises:
        Usage: it is one text, whose letters would be the names; or a table or topic itself.
    """
    if isinstance(given, str):
        raise Usage(f"{option}={given!r}: names are given as a list", hint=f'{option}=["{given}"]')
    names = tuple(given)
    for name in names:
        check_name(name, "table or topic")
    return names


def check_names(option: str, given: Iterable[str], known: Collection[str]) -> None:
    """Refuse names of tables and topics that a world did not have at its end, and would not have with late records
    and dead letters.

    Raises:
        Usage: there is one.
    """
    for name in given:
        if name not in known and name.removesuffix(LATE_SUFFIX).removesuffix(SUFFIX) not in known:
            raise Usage(f"{option}=[{name!r}]: the app has no such table or topic", hint=did_you_mean(name, known))


def packed_topics(packed: bool | Iterable[str], records: Mapping[str, list[Input]]) -> frozenset[str]:
    """Return the topics whose inputs arrive as packed batches.

    Raises:
        Usage: one is no input, or has a record that is no row.
    """
    if isinstance(packed, bool):
        names = list(records) if packed else []
    else:
        names = [packed] if isinstance(packed, str) else list(packed)
    for name in names:
        if name not in records:
            raise Usage(f"packed={name!r}: the simulation has no such input", hint=did_you_mean(name, records))
        if any(record.value is None for record in records[name]):
            raise Usage(
                f"packed inputs of topic {name}: a record without a value, which is no row",
                hint="name the topics without such records: packed=[…]",
            )
    return frozenset(names)
