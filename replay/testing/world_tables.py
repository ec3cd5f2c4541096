"""The tables of the workers of a world, as plain dicts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from ...agents.runtime import runtime_of
from ...topics.errors import Usage
from ...topics.spelling import did_you_mean
from .plain_value import plain_value
from .world_names import check_name

if TYPE_CHECKING:
    from ...agents.app import App
    from ...agents.tables.partition_state import PartitionState
    from ...agents.tables.table import Table

__all__ = ["merged_table", "pairs_of", "table_of"]


def table_of(app: App, name: str) -> Table:
    """Return a table of an app.

    Raises:
        Usage: there is none of this name.
    """
    check_name(name, "table")
    names = {table.name: table for table in runtime_of(app).tables}
    if name not in names:
        raise Usage(f"app {app.conf.id} has no table {name!r}", hint=did_you_mean(name, names))
    return names[name]


def _plain(table: Table, value: object) -> Any:
    """Return a value as plain Python, without the states of aggregates."""
    plain = plain_value(value)
    if table.state_fields and isinstance(plain, dict):
        return {key: field for key, field in cast("dict[Any, Any]", plain).items() if key not in table.state_fields}
    return plain


def pairs_of(table: Table, partition: int | None = None) -> dict[Any, Any]:
    """Return the committed pairs of a table on one worker, or those of one partition."""
    states = table.visible_states() if partition is None else [s for p, s in table.states.items() if p == partition]
    return {key: _plain(table, value) for state in states for key, value in state.content.committed_items()}


def merged_table(apps: Iterable[App], name: str) -> dict[Any, Any]:
    """Return the committed pairs of a table on all workers.

    Raises:
        Usage: there is no such table, some of its partitions are on no worker, or a key is in several partitions of a
            table that is not `local`.
    """
    states: dict[int, PartitionState] = {}
    tables = [table_of(app, name) for app in apps]
    for table in tables:
        states |= table.states
    partitions = max((table.changelog_partitions for table in tables), default=0)
    missing = [partition for partition in range(partitions) if partition not in states]
    if missing or not partitions:
        raise Usage(
            f"table {name}: no worker has " + (f"its partitions {missing}" if partitions else "started"),
            hint="call world.settle() first",
        )
    pairs: dict[Any, Any] = {}
    for partition in range(partitions):
        for key, value in states[partition].content.committed_items():
            if key in pairs and not tables[0].local:
                other = "" if tables[0].is_global else ", or local=True and world.worker(n).table(…, partition=…)"
                raise Usage(
                    f"table {name}: key {key!r} is in several partitions, so it has no single value",
                    hint=f"its agents write it from streams with other keys: use group_by{other}",
                )
            pairs[key] = _plain(tables[0], value)
    return pairs
