"""Keys of global tables belong to one partition each: all others refuse to write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from .absent import UNTOUCHED
from .partition_state import PartitionState
from .table_errors import not_its_partition

if TYPE_CHECKING:
    from .global_table import GlobalTable
    from .table import Table

__all__ = ["check_owner"]


def check_owner(table: Table[Any, Any], partition: int, changes: Mapping[Any, object]) -> None:
    """Refuse a key of a global table that another partition has; other tables see one partition only.

    Raises:
        BadRecord: there is one.
    """
    if not table.is_global or table.local or not changes:
        return
    states = cast("GlobalTable[Any, Any]", table).remote_states | table.states
    held = states.pop(partition).held
    for key, value in changes.items():
        for number, state in states.items():
            if _has(state, key) and held.exists(key, value):
                raise not_its_partition(table, key, partition, number)


def _has(state: PartitionState, key: object) -> bool:
    found = state.epoch.get(key, UNTOUCHED)
    return state.content.has(key) if found is UNTOUCHED else state.held.exists(key, found)
