"""One partition of a table as an agent sees it: its uncommitted writes, over the state of the partition.

A read looks into the uncommitted writes first, then into the layers of `partition_state.py`. `move_to_epoch` moves the
writes into the epoch of the state, and the barrier encodes the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from itertools import repeat
from operator import is_, setitem
from types import MethodType, UnionType
from typing import TYPE_CHECKING, Any, Generic, Protocol, cast, get_origin

from typing_extensions import TypeVar

from ...topics.errors import BadRecord
from ...topics.serde import Codec
from .absent import ABSENT, UNTOUCHED, Absent
from .agent_step import IsolatedWriter, MovedKeys
from .partition_state import PartitionState
from .value_cache import IMMUTABLE, own_copy

if TYPE_CHECKING:
    from .table import Table

__all__ = ["K", "OpenPartition", "PendingChanges", "TrackedValue", "V", "end_record", "is_mutable_type"]

K = TypeVar("K", default=Any)
V = TypeVar("V", default=Any)

# An agent that holds an instance of a subclass of these shares nothing with the table; the barrier refuses such values.
_SCALAR_BASES = (int, float, str, bytes)

# Defaults whose values share nothing.
_MAKE_NEW = (dict, list, set)

TrackedValue = tuple["OpenPartition", object, object]
"""A mutable value that an agent has read or written: (partition, key, value)."""


class PendingChanges(Protocol):
    """Changes of one partition that are applied when it is next read or written; see `OpenPartition.defer`."""

    def apply_to(self, partition: OpenPartition) -> None:
        """Apply the changes.

        Raises:
            BadRecord: they cannot be applied. The table is unchanged, and the epoch must be rolled back and
                reprocessed without deferring.
        """
        ...


class _Writes(dict[K, V]):
    """The writes of agents to one partition since the last `move_to_epoch`.

    A dict looks up `__missing__` in its class, and there it is this slot, so that each has a function of its own: the
    `__getitem__` of the cache below it, at a fifth of the cost of a method.
    """

    __slots__ = ("__missing__",)
    __missing__: Callable[[K], V]


class OpenPartition(Generic[K, V]):
    """One partition of a table as an agent sees it.

    Tracking. Within a record, tables are plain Python: a value that an agent has read or written is the object in the
    table, so `table[key].append(x)` changes the table, and one object may be at two keys or in two tables. When the
    record ends (the agent requests the next one; for batches and `take`, the next batch), each of these places gets an
    equal value that shares nothing with the agent, with other keys or with other tables. A commit has the same effect,
    because a value that is read from a changelog shares nothing; so agents cannot see where commits fall.

    A default that was only read is no key when the record ends. A default that was changed or assigned is a key from
    then on, whatever its value becomes.

    Mechanism. Values that `[]` returns or `[]=` receives are tracked, and `end_record` replaces each by the value that
    its bytes decode to. The bytes are compared first: a value that was only read is neither replaced nor written.
    Numbers and text cannot be changed, so a table that holds nothing else needs no tracking, and has the speed of a
    dict. The default or the declared type decides which of the two a table is. If they do not, it begins without, and
    starts tracking when it is first found to hold a mutable value; if an agent holds one by then, the epoch is rolled
    back and reprocessed (`UncommittedWrites.untracked`).

    Attributes:
        table: the table.
        state: the layers below the uncommitted writes.
        held: what the state knows of mutable values.
        topic: topic of the agent that opened the partition last; the uncommitted writes are from it.
        writer: the same agent, if its records are isolated.
        moved: keys that it and others have written, and that are not checked.
        read: `[]` of the table while this partition is shown.
        write: `[]=` of the table while this partition is shown.
        writes: the uncommitted writes.
        deleted: the keys that were deleted, in order, so that tombstones are.
        pending: topic -> changes that are not applied yet.
    """

    __slots__ = ("_all", "_put", "deleted", "held", "moved", "pending", "read", "state", "table", "topic",
                 "write", "writer", "writes")  # fmt: skip
    read: Callable[[K], V]
    write: Callable[[K, V], object]

    def __init__(self, table: Table[K, V], state: PartitionState) -> None:
        self.table, self.state, self.topic = table, state, ""
        self.writer: IsolatedWriter | None = None
        self.moved, self.held = MovedKeys(), state.held
        self._all = table.uncommitted
        self.writes: _Writes[K, V] = _Writes()
        self.deleted: dict[object, None] = {}
        self.pending: dict[str, PendingChanges] = {}
        self._put: dict[K, V] = {}  # values that no agent holds, while the table does not track values
        state.cache.__missing__ = self.read_below_cache
        self.writes.__missing__ = state.cache.__getitem__
        self.set_access()

    def set_access(self) -> None:
        """Set `read` and `write`: functions in C, or methods that track values."""
        if self._all.tracking:
            self.read, self.write = self.read_tracked, self.write_tracked
        else:
            self.read, self.write = self.writes.__getitem__, MethodType(setitem, self.writes)

    def turn_to(self, topic: str, writer: IsolatedWriter | None = None) -> None:
        """Note that an agent that reads `topic` uses the partition, and apply pending changes.

        Raises:
            BadRecord: pending changes cannot be applied; they stay pending.
            Usage: agents of this topic cannot use the table.
        """
        if self.pending:
            self.apply_pending()
        if topic != self.topic:
            self.table.check_source(topic)
            self.move_to_epoch()
            self.topic = topic
        if writer is not self.writer:
            self.move_to_epoch()
            self.writer = writer

    # Reading --------------------------------------------------------------------------------------------------------

    def read_below_cache(self, key: K) -> V:
        """Return what `[]` gives for a key that is neither in the uncommitted writes nor in the cache.

        Raises:
            KeyError: the key does not exist, and the table has no default.
        """
        state = self.state
        value = ABSENT if key in self.deleted else state.epoch.get(key, UNTOUCHED)
        if value is UNTOUCHED:
            value = state.content.below_epoch(key)
            if value is not ABSENT:
                if type(value) in IMMUTABLE:
                    state.cache.add(key, value)
                else:
                    self.held.keep_original(key, value, existed=True)
                    self._track_read(key, value)
                return value
        elif value is not ABSENT:
            if type(value) in IMMUTABLE:
                return value
            # Between savepoints, a default that an earlier record only read is no key: this record gets one of its own.
            in_savepoints = self._all.in_savepoints
            if not in_savepoints or self.held.exists(key, value):
                value = self.held.private_copy(key, value) if in_savepoints else value
                self._track_read(key, value)
                return value
        if self.table.default is None:
            raise KeyError(key)
        value = _new(self.table.default)
        if type(value) not in IMMUTABLE:
            self.held.keep_original(key, value, existed=False)
            self._track_read(key, value)
        return value

    def _track_read(self, key: K, value: V) -> None:
        """Track a mutable value that an agent is given for the first time."""
        if not self._all.tracking:
            self._all.start_tracking()
        dict.__setitem__(self.writes, key, value)
        self._all.tracked.append((self, key, value))

    def read_tracked(self, key: K) -> V:
        """Return what `[]` gives, and track it if it is mutable."""
        value = self.writes[key]
        if type(value) not in IMMUTABLE:
            self._all.tracked.append((self, key, value))
        return value

    def find(self, key: object) -> V | Absent:
        """Return a value; ABSENT if there is none or if it is a default that was only read."""
        state = self.state
        value = self.writes.get(cast("K", key), ABSENT)
        if value is ABSENT:
            if key in self.deleted:
                return ABSENT
            for layer in (state.cache, state.epoch):
                if key in layer:
                    value = layer[key]
                    break
            else:
                value = state.content.below_epoch(key)
        return value if value is not ABSENT and self.held.exists(key, value) else ABSENT

    def has(self, key: object) -> bool:
        return self.find(key) is not ABSENT

    def get_many(self, keys: Sequence[K]) -> list[V | Absent]:
        """Return the value of each key, ABSENT where there is none; several times faster than one by one.

        The caller must not change the values in place; for that, read them with `[]`.
        """
        state = self.state
        if self.deleted or self._all.in_savepoints or self.held.originals or self.table.sets:
            return list(map(self.find, keys))
        cached = state.cache.get
        found: list[V | Absent]
        if self.writes:
            own = self.writes.get
            found = [cached(key, ABSENT) if (value := own(key, ABSENT)) is ABSENT else value for key in keys]
        else:
            found = list(map(cached, keys, repeat(ABSENT)))
        absent = [index for index, value in enumerate(found) if value is ABSENT]
        below = state.get_uncached([keys[index] for index in absent]) if absent else []
        for index, value in zip(absent, below, strict=True):
            found[index] = value
        return found

    def pairs(self) -> dict[K, V]:
        """Return all pairs; their mutable values are not tracked."""
        state = self.state
        merged = dict(state.content.items_below_epoch())
        merged.update(state.epoch)
        for key in self.deleted:
            merged[key] = ABSENT
        merged.update(self.writes)
        present = {key: value for key, value in merged.items() if self.held.exists(key, value)}
        if set(map(type, present)) <= self.table.key_codec.trusted:
            return present
        return {_as_kept(self.table.key_codec, key): value for key, value in present.items()}

    def items(self) -> list[tuple[K, V]]:
        """Return a snapshot of the pairs for an agent."""
        return [(key, self.read(key)) for key in self.pairs()]

    # Writing --------------------------------------------------------------------------------------------------------

    def write_tracked(self, key: K, value: V) -> None:
        """Write a value, and track it if it is mutable."""
        self.writes[key] = value
        if type(value) not in IMMUTABLE:
            self.track_written(key, value)

    def track_written(self, key: K, value: V) -> None:
        """Track a mutable value that an agent has written."""
        self.held.originals.pop((key, id(value)), None)  # it counts as changed, even if it equals the original
        self._all.tracked.append((self, key, value))

    def update(self, new: dict[K, V]) -> None:
        """Write many pairs."""
        self.writes.update(new)
        if self._all.tracking and not IMMUTABLE.issuperset(map(type, new.values())):
            for key, value in new.items():
                if type(value) not in IMMUTABLE:
                    self.track_written(key, value)

    def put(self, changes: dict[K, V]) -> None:
        """Write values that no agent holds, such as the results of a flow."""
        if not self._all.tracking and not IMMUTABLE.issuperset(map(type, changes.values())):
            self._put.update(changes)
        self.writes.update(changes)

    def delete(self, key: object) -> None:
        """Delete a key, which may be absent; reads look at the cache before `deleted`."""
        written = self.writes.pop(cast("K", key), None)
        if type(written) not in IMMUTABLE and not self._all.tracking and self.has_untracked({cast("K", key): written}):
            self._all.untracked = True  # the barrier does not see it any more, and agents may have changed it meanwhile
        self.deleted[key] = None
        self.state.cache.pop(key, None)

    def forget(self, key: object) -> None:
        """Forget a value that is no key: a default, or an empty set. Later changes to it do not reach the table."""
        value = self.writes.get(cast("K", key), ABSENT)
        original = self.held.originals.get((key, id(value)))
        if original is not None and not original[2]:
            del self.writes[cast("K", key)]
        elif value is not ABSENT:
            self.delete(key)

    # Changes that are not applied yet -------------------------------------------------------------------------------

    def defer(self, topic: str, changes: PendingChanges) -> None:
        """Apply these changes when the partition is next read or written, or at the barrier.

        Changes that are pending already are applied now.

        Raises:
            BadRecord: those cannot be applied.
        """
        self.apply_pending()
        self.pending[topic] = changes
        self.table.close()  # the next touch opens it, and applies them

    def apply_pending(self) -> None:
        """Apply the pending changes. They stay pending if one raises BadRecord, see `PendingChanges`."""
        for topic, changes in list(self.pending.items()):
            if topic != self.topic or self.writer is not None:
                self.move_to_epoch()
                self.topic, self.writer = topic, None
            changes.apply_to(self)
            del self.pending[topic]

    # The engine's side ----------------------------------------------------------------------------------------------

    def move_to_epoch(self) -> None:
        """Move the uncommitted writes into the epoch of the state."""
        if not self.writes and not self.deleted:
            return
        self._all.writer_topics.add(self.topic)
        self.moved.note(self.writer, self.writes, self.deleted)
        changes = dict.copy(self.writes)  # a plain dict, which the epoch keeps
        if not (self.state.add_to_epoch(changes, self.deleted) or self._all.tracking) and self.has_untracked(changes):
            self._all.untracked = True
        self.discard()

    def discard(self) -> None:
        """Forget everything that was written and deleted since the last `move_to_epoch`."""
        self.writes.clear()
        self.deleted.clear()
        self._put.clear()

    def has_untracked(self, changes: Mapping[K, V | None]) -> bool:
        """True if an agent may hold one of these values without its being tracked."""
        put = self._put
        if put and len(put) == len(changes) and all(map(is_, changes.values(), put.values())):
            return False
        return any(
            kind not in IMMUTABLE and not issubclass(kind, _SCALAR_BASES) and put.get(key, ABSENT) is not value
            for key, value in changes.items()
            if (kind := type(value))
        )

    def detach(self, key: object, value: object) -> None:
        """Replace a value that an agent has held during a record by an equal one that it does not hold.

        Raises:
            BadRecord: the value cannot be kept.
        """
        state = self.state
        written = self.writes.get(cast("K", key), ABSENT)
        if written is value:
            copy = self.held.detach(key, value)
            if copy is ABSENT:
                del self.writes[cast("K", key)]
            else:
                dict.__setitem__(self.writes, key, copy)
        elif written is ABSENT and state.epoch.get(key, ABSENT) is value:  # moved since, by another agent
            state.replace(key, value, self.held.detach(key, value))
        else:
            return  # the key was deleted, or has another value now
        self.held.originals.pop((key, id(value)), None)


def _as_kept(codec: Codec, key: K) -> K:
    """Return a key as it will be read back after the commit, so that it looks the same before."""
    try:
        return codec.decode(codec.keep(key))
    except BadRecord:
        return key


def _new(default: Callable[[], V]) -> V:
    """Return a value of a default. The default may share parts of it, as a Faust record does with `tags: list = []`."""
    value = default()
    return value if type(value) in IMMUTABLE or default in _MAKE_NEW else own_copy(value)


def is_mutable_type(default: Callable[[], object] | None, declared: object) -> bool:
    """Return whether values are mutable according to the default or the declared type of a table."""
    if default is not None:
        return type(default()) not in IMMUTABLE
    kind = get_origin(declared) or declared  # list for list[int]; a union is not decisive
    return isinstance(kind, type) and kind not in IMMUTABLE and kind is not UnionType and not issubclass(kind, Enum)


def end_record(tracked: list[TrackedValue], others: Iterable[list[TrackedValue]] = ()) -> None:
    """Detach the values that an agent held during a record: from now on, agent and tables share none of them.

    Args:
        tracked: the values of the agent whose record ends; the list is cleared.
        others: values of agents that are still at their records. A value that one of them holds as well stays attached
            until that record ends, so that no change of it is lost.

    Raises:
        BadRecord: a value cannot be kept.
    """
    held = {id(value) for other in others for _, _, value in other} if others else ()
    for partition, key, value in tracked:
        if not held or id(value) not in held:
            partition.detach(key, value)
    tracked.clear()
