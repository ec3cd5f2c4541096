"""Reads how a world has ended from its Kafka, and checks what has to hold at its end whatever has happened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...agents.flows.flow import repartition_topic
from ...agents.runtime import runtime_of
from ...agents.tables.timer_table import TimerTable
from ...topics.control_records import CONTROL_KEY, carries_control
from ...topics.dead_letter import SUFFIX
from ...topics.memory.memory_kafka import MemoryKafka
from ...topics.memory.partition_log import PartitionLog, Record
from .audit import Outcome, Written
from .simulated_worker import SimulatedWorker

__all__ = ["committed_records", "lags", "outcome_of", "store_faults"]


def committed_records(log: PartitionLog) -> Iterator[Record]:
    """Iterate over the records that a read_committed reader gets."""
    for record in log.records:
        if record.is_marker or record.offset < log.start:
            continue
        if record.transaction is None or not (record.transaction.open or record.transaction.aborted):
            yield record


def lags(kafka: MemoryKafka, group: str) -> dict[tuple[str, int], int]:
    """Return (topic, partition) -> number of records that the group has not committed, where there are any."""
    members, offsets = kafka.members(group), kafka.offsets(group).committed
    found: dict[tuple[str, int], int] = {}
    for topic in dict.fromkeys(topic for member in members for topic in member.topics):
        for log in kafka.topics[topic].logs if topic in kafka.topics else ():
            offset = offsets.get((topic, log.partition))
            next_offset = log.start if offset is None else offset.offset
            left = sum(
                record.offset >= next_offset and not record.is_marker for record in reversed_until(log, next_offset)
            )
            if left:
                found[topic, log.partition] = left
    return found


def reversed_until(log: PartitionLog, offset: int) -> Iterator[Record]:
    """Iterate over the visible records from an offset on, backwards."""
    for record in reversed(log.records):
        if record.offset < offset:
            return
        if record.transaction is None or not record.transaction.aborted:
            yield record


def _content(log: PartitionLog) -> dict[bytes, bytes]:
    """Return the last value of each key of a changelog partition."""
    found: dict[bytes, bytes] = {}
    for record in committed_records(log):
        if record.key is None:
            continue
        if record.value is None:
            found.pop(record.key, None)
        else:
            found[record.key] = record.value
    return found


def outcome_of(kafka: MemoryKafka, app: Any, inputs: Iterable[str], ignore: frozenset[str]) -> Outcome:
    """Return the outcome of a world at rest.

    Args:
        app: an app of the world, for the types of its tables.
        inputs: topics that the world's own producer writes.
        ignore: tables and topics that are left out.
    """
    outcome = Outcome()
    changelogs: set[str] = set()
    partial: set[str] = set()  # partial results of flows, which differ by where epochs end
    for table in runtime_of(app).tables:
        changelogs.add(table.changelog_name)
        partial.add(repartition_topic(app, table.name))
        if table.name in ignore or table.changelog_name not in kafka.topics:
            continue
        rows = outcome.tables[table.name] = {}
        several: dict[object, list[object]] = {}  # values of keys that are in several partitions
        for log in kafka.topics[table.changelog_name].logs:
            outcome.has_changed |= any(committed_records(log))
            for key, value in table.content(_content(log)).items():
                found = _hashable(table.key_codec.decode(key))
                decoded = table.value_codec.decode(value)
                if found in rows and not table.is_global:  # the last one would hide the others
                    several.setdefault(found, [rows[found]]).append(decoded)
                rows[found] = decoded
        if table.local or isinstance(table, TimerTable):
            # In which partition a value is may depend on chance: records without a key go to any.
            rows |= {key: sorted(values, key=repr) for key, values in several.items()}
        elif several:
            outcome.wrong.append(
                f"table {table.name}: {len(several)} of {len(rows)} keys are in several partitions, such as "
                f"{min(map(repr, several))}: its agents write it from records with other keys; use group_by, or "
                "local=True"
            )
    skipped = {*inputs, *changelogs, *partial, *ignore}
    for name, topic in kafka.topics.items():
        if name in skipped or name.startswith("__") or name.endswith("-changelog"):
            continue
        records = [(log.partition, record) for log in topic.logs for record in committed_records(log)]
        if carries_control(name):  # which times are told depends on where epochs end
            records = [each for each in records if each[1].key != CONTROL_KEY]
        if name.endswith(SUFFIX):
            outcome.dead_letters[name] = [record.value for _, record in records]
        else:
            outcome.topics[name] = [
                Written(number, record.key, record.value, _headers(record)) for number, record in records
            ]
    return outcome


def _headers(record: Record) -> tuple[tuple[str, bytes | None], ...]:
    return tuple((name, value) for name, value in record.headers or ())


def _hashable(key: object) -> object:
    try:
        hash(key)
    except TypeError:
        return repr(key)
    return key


def store_faults(kafka: MemoryKafka, workers: Iterable[SimulatedWorker]) -> Iterator[str]:
    """Iterate over what is wrong with the stores of workers at rest, and with who has which partition."""
    owners: dict[tuple[str, int], int] = {}
    for worker in workers:
        if worker.app is None:
            continue
        runtime = runtime_of(worker.app)
        for at in runtime.status.active:
            if at in owners:
                yield f"{at.topic}[{at.partition}] is active on workers {owners[at]} and {worker.number}"
            owners[at] = worker.number
        for table in runtime.tables:
            topic = kafka.topics.get(table.changelog_name)
            for partition, state in table.states.items():
                if topic is None:
                    continue
                expected, found = _content(topic.logs[partition]), dict(state.store.items())
                if found != expected:
                    yield (
                        f"worker {worker.number}: the store of {table.name}[{partition}] differs from its changelog: "
                        f"{_difference(expected, found)}"
                    )


def _difference(expected: Mapping[bytes, bytes], found: Mapping[bytes, bytes]) -> str:
    keys = [key for key in sorted(expected.keys() | found.keys()) if expected.get(key) != found.get(key)]
    shown = "; ".join(f"{key!r} is {found.get(key)!r}, not {expected.get(key)!r}" for key in keys[:3])
    return f"{shown}; and {len(keys) - 3} more" if len(keys) > 3 else shown
