"""Tables and their partitions without an app or a broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from anabranch.agents.tables.open_partition import OpenPartition
from anabranch.agents.tables.store import Changes
from anabranch.agents.tables.table import Table

PARTITIONS = 3


class Basket(msgspec.Struct):
    items: list[str] = []
    total: int = 0


Content = dict[int, dict[Any, Any]]


def made(default: Callable[[], Any] | None = None, *, owned: int = PARTITIONS, **options: Any) -> Table:
    table = Table("t", default=default, **options)
    table.changelog_partitions = PARTITIONS
    for partition in range(owned):
        table.add_partition(partition)
    return table


def known(_topic: str) -> int:
    return PARTITIONS


def open_at(table: Table, topic: str, partition: int, tracked: list[Any] | None = None) -> None:
    """Let an agent go on at a record of this partition."""
    table.step().begin(topic, partition, [] if tracked is None else tracked)


def close(table: Table) -> None:
    """Let the agent be suspended."""
    table.step().end()


def commit(table: Table) -> dict[int, Changes]:
    close(table)
    changes = table.uncommitted.encode_epoch(known)
    table.uncommitted.freeze_epoch(changes)
    table.uncommitted.epoch_committed({p: table.states[p].store.position + len(c) for p, c in changes.items()})
    return changes


def decoded(table: Table, data: dict[bytes, bytes]) -> dict[Any, Any]:
    return {table.key_codec.decode(key): table.value_codec.decode(value) for key, value in data.items()}


def stored(table: Table) -> Content:
    return {p: decoded(table, dict(state.store.items())) for p, state in table.states.items()}


class Steps(NamedTuple):
    """Changes that wait."""

    found: list[dict[Any, int]]

    def apply_to(self, partition: OpenPartition) -> None:
        for steps in self.found:
            for key, step in steps.items():
                partition.write(key, partition.read(key) + step)
