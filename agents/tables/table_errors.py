"""Errors of tables that are touched where they cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...topics.errors import BadRecord, Stop, Usage
from ..running_agent import RUNNING_AGENT

if TYPE_CHECKING:
    from .table import Table

__all__ = ["KeyElsewhere", "no_partition", "no_source", "not_its_partition", "not_writable", "partition_mismatch"]

_KEYS_MOVED = (
    "if partitions were added to a live topic, its keys have moved and the table has to be recomputed under another "
    "app id"
)


def no_partition(table: Table, topic: str, partition: int) -> Stop:
    """Return the error of an agent at a partition that the table does not have."""
    return Usage(
        f"table {table.name}: partition {partition} of topic {topic} has no matching partition in the "
        f"changelog, which has {table.changelog_partitions} partitions",
        hint=f"a table and the topics whose agents write to it need the same number of partitions; {_KEYS_MOVED}",
    )


def no_source(table: Table, topic: str) -> Stop:
    """Return the error of an agent whose topic has another number of partitions than the table."""
    return Usage(
        f"table {table.name}: an agent of topic {topic} uses it, which does not have the {table.changelog_partitions} "
        f"partitions of the changelog {table.changelog_name}",
        hint="give both the same number (partitions=…), repartition the stream with group_by, or, if the agent only "
        f"reads the table, declare it with app.GlobalTable; {_KEYS_MOVED}",
    )


def partition_mismatch(table: Table, topic: str, partitions: int) -> Stop:
    """Return the error of a commit with writes of agents whose topic has another number of partitions."""
    return Usage(
        f"table {table.name}: topic {topic} has {partitions} partitions, the changelog "
        f"{table.changelog_name} has {table.changelog_partitions}",
        hint=f"give both the same number (partitions=…), or repartition the stream with group_by; {_KEYS_MOVED}",
    )


class KeyElsewhere(BadRecord):
    """An epoch has a key of a global table that another partition has. That may be one of another worker, which has
    committed it since the record was processed: processed again, it meets it."""


def not_its_partition(table: Table, key: object, partition: int, other: int) -> BadRecord:
    """Return the error of an agent that writes a key of a global table that another partition has."""
    return BadRecord(
        f"global table {table.name}: key {key!r} is written to partition {partition}, and partition {other} has it: "
        "readers would see the one value or the other",
        hint="write a key from records of one partition only: use the table's key as the key of the records (group_by, "
        "--key), or one partition (partitions=1 for the topic and the table)",
    )


def not_writable(table: Table) -> BadRecord:
    """Return the error of a write outside of an agent's own coroutine."""
    agent = RUNNING_AGENT.get()
    if agent is not None:
        return BadRecord(
            f"table {table.name}: cannot be modified by a task that agent {agent} has started (asyncio.gather, "
            "create_task): a table is open to the agent's own coroutine only",
            hint="return the result from the task and write it to the table in the agent",
        )
    return BadRecord(
        f"table {table.name}: cannot modify a table outside of an agent",
        hint="send a record to an agent that modifies it; timers and web views can only read",
    )
