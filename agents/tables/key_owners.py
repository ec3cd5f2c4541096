"""Keys of global tables belong to one partition each: all others refuse to write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from .absent import UNTOUCHED
from .stored_content import StoredContent
from .table_errors import not_its_partition

if TYPE_CHECKING:
    from .global_table import GlobalTable
    from .table import Table

__all__ = ["check_owner"]


def check_owner(table: Table[Any, Any], partition: int, changes: Mapping[Any, object]) -> None:
    """Refuse a key of a global table that another partition has; other tables see one partition only.

    Raises:
        BadRecord: there is one, or the table cannot have a key.
    """
    if not table.is_global or not changes:
        return
    states = cast("GlobalTable[Any, Any]", table).remote_states | table.states
    held = states.pop(partition).held
    keys = [key for key, value in changes.items() if held.exists(key, value)]
    pairs = list(zip(keys, table.key_codec.keep_all(keys), strict=True))  # encoded once, not for each partition
    for number, state in states.items():
        get = cast(StoredContent, state.content).get
        for key, kept in pairs:
            value = state.epoch.get(key, UNTOUCHED)
            if get(kept) is not None if value is UNTOUCHED else state.held.exists(key, value):
                raise not_its_partition(table, key, partition, number)
