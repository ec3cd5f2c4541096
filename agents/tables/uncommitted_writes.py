"""The engine's side of a table: which partition it shows, and how its writes reach the changelog.

A table object is a real dict. It holds what the agent has written since the table was turned to the partition that it
shows. `move_to_epoch` moves these writes into the epoch of the partition (`partition_state.py`), and the barrier
encodes the epoch.

C code that checks for `dict` (`msgspec`, `orjson`) bypasses the methods of a subclass and sees these writes only, which
is a part of the table. So the first pair of each table is one that no encoder accepts (`SENTINEL`): encoding a table
raises TypeError. It costs agents nothing. Code that uses the methods (`dict(table)`, `json.dumps`) sees the whole table
and never that pair. The key of the pair is text, because a dict whose keys are all text is faster.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum, EnumMeta
from itertools import islice
from operator import is_
from types import UnionType
from typing import Any, ClassVar, NoReturn, Protocol, cast, get_origin

import msgspec
from typing_extensions import TypeVar

from ...topics.errors import BadRecord, Stop, Usage
from ...topics.serde import Codec, key_codec, set_codec, value_codec
from .partition_state import ABSENT, PartitionState
from .store import Changes, MemoryStore, Store
from .value_cache import IMMUTABLE, ValueCache

__all__ = ["K", "PendingChanges", "TrackedValue", "UncommittedWrites", "V", "end_record"]

K = TypeVar("K", default=Any)
V = TypeVar("V", default=Any)


def _refuse(_: object) -> NoReturn:
    raise TypeError("a table cannot be encoded directly: pass dict(table) or table.copy()")


# To encoders, the value is an enum member, which they ask for its value. It is built by hand, because the enum module
# refuses such members.
_MEMBER = {"_value_": property(_refuse), "value": property(_refuse), "__slots__": ()}
SENTINEL: Any = "\0anabranch: a table is no dict", object.__new__(type.__new__(EnumMeta, "Table", (), _MEMBER))

# An agent that holds an instance of a subclass of these shares nothing with the table; the barrier refuses such values.
_SCALAR_BASES = (int, float, str, bytes)

TrackedValue = tuple["Detaches", PartitionState, object, object]
"""A mutable value that an agent has read or written: (table, state of the partition, key, value)."""

_KEYS_MOVED = (
    "if partitions were added to a live topic, its keys have moved and the table has to be recomputed under another "
    "app id"
)


class ChangelogTopic(Protocol):
    """A Faust topic."""

    def get_topic_name(self) -> str:
        """Return its name in Kafka."""
        ...


class PendingChanges(Protocol):
    """Changes of one partition that are applied when the table is next read or written; see `PendingTable`."""

    def apply_to(self, table: UncommittedWrites) -> None:
        """Apply the changes to the table, which is open at the partition.

        Raises:
            BadRecord: they cannot be applied. The table is unchanged, and the epoch must be rolled back and
                reprocessed without deferring.
        """
        ...


class Detaches(Protocol):
    """A table, as `end_record` uses it."""

    def detach(self, state: PartitionState, key: object, value: object) -> None:
        """Replace a value that an agent has held during a record; see `UncommittedWrites.detach`."""
        ...


class UncommittedWrites(dict[K, V]):
    """The base of all tables: everything below the dict methods that agents use. For the arguments see `Table`.

    Attributes:
        states: partition -> its state, for the partitions of this worker.
        ttl_ms: time-to-live of keys in ms; None if they do not expire.
        store_scheme: kind of the stores, `memory` or `rocksdb`.
        local: content is kept per partition on purpose: a key may be in several partitions.
        is_global: whether every worker holds the whole table.
        open_class: class of this object while an agent runs.
        closed_class: class of this object while no agent runs.
        pending_class: class of this object while an agent runs at a partition that has pending changes.
        tracking_class: `open_class` of a table that holds mutable values; it tracks which of them the agent holds.
        tracking: whether the table tracks mutable values.
        untracked: whether agents were given mutable values before tracking began. The epoch must then be rolled back
            and reprocessed.
        pending: partition -> topic -> changes that are not applied yet.
        all_writer_topics: topics whose agents have written to the table since the start.
    """

    # A dict looks up `__missing__` in its class, and there it is this slot, so that each table has a function of its
    # own: the `__getitem__` of the cache that is shown, at a fifth of the cost of a method.
    __slots__ = ("__dict__", "__missing__", "__weakref__")
    __missing__: Callable[[K], V]

    ttl_ms: int | None = None
    is_global: ClassVar[bool] = False
    open_class: ClassVar[type[UncommittedWrites]]
    pending_class: ClassVar[type[UncommittedWrites]]
    closed_class: ClassVar[type[UncommittedWrites]]
    tracking_class: ClassVar[type[UncommittedWrites]]

    def __init__(
        self,
        name: str,
        *,
        default: Callable[[], V] | None = None,
        partitions: int | None = None,
        key_type: object = None,
        value_type: object = None,
        help: str = "",
        config: Mapping[str, str] | None = None,
        store: str = "memory",
        sets: bool = False,
        local: bool = False,
    ) -> None:
        super().__init__()
        dict.__setitem__(self, *SENTINEL)
        self.name, self.help = name, help
        self.default: Callable[[], V] | None = cast("Callable[[], V]", set) if sets else default
        self.partitions, self.store_scheme = partitions, store
        self.config = dict(config or {})
        self.key_type, self.value_type = key_type, value_type
        self.key_codec: Codec = key_codec(key_type)
        self.sets, self.local = sets, local
        self.value_codec: Codec = set_codec(name, value_type) if sets else value_codec(name, value_type, default)
        self.changelog_topic: ChangelogTopic | None = None
        self.changelog_partitions = 0
        self.states: dict[int, PartitionState] = {}
        self._suspended: dict[int, PartitionState] = {}
        self._writer_topics: set[str] = set()
        self.all_writer_topics: set[str] = set()
        self._deleted: dict[object, None] = {}  # in order, so that tombstones are
        self._in_savepoints = False
        self.pending: dict[int, dict[str, PendingChanges]] = {}
        self.tracking = self.untracked = False
        self._put: dict[K, V] = {}  # values that no agent holds, while the table does not track values
        self._tracked: list[TrackedValue] = []
        self._show("", -1)
        if self._holds_mutables(value_type):
            self._start_tracking()
        self.close()

    def _holds_mutables(self, declared: object) -> bool:
        """True if values are mutable according to the default or the declared type."""
        if self.default is not None:
            return type(self.default()) not in IMMUTABLE
        kind = get_origin(declared) or declared  # list for list[int]; a union is not decisive
        return isinstance(kind, type) and kind not in IMMUTABLE and kind is not UnionType and not issubclass(kind, Enum)

    def _start_tracking(self) -> None:
        """From now on, track the mutable values that agents hold."""
        self.tracking = True
        self.open_class = self.tracking_class  # pyright: ignore[reportAttributeAccessIssue]
        if self.untracked or self._has_untracked(dict(self.writes())):
            self.untracked = True

    def _has_untracked(self, changes: Mapping[K, V]) -> bool:
        """True if an agent may hold one of these values without its being tracked."""
        put = self._put
        if put and len(put) == len(changes) and all(map(is_, changes.values(), put.values())):
            return False
        return any(
            kind not in IMMUTABLE and not issubclass(kind, _SCALAR_BASES) and put.get(key, ABSENT) is not value
            for key, value in changes.items()
            if (kind := type(value))
        )

    # Around an agent's steps ----------------------------------------------------------------------------------------

    def open(self, topic: str, partition: int, tracked: list[TrackedValue] | None = None) -> None:
        """Show `partition` to an agent that reads `topic`.

        Args:
            tracked: receives the mutable values that the agent reads or writes during this record; see `end_record`.
        """
        if tracked is not None:
            self._tracked = tracked
        if partition != self._partition or topic != self._topic:
            self.move_to_epoch()
            self._show(topic, partition)
        self.__class__ = self.pending_class if partition in self.pending else self.open_class  # pyright: ignore[reportAttributeAccessIssue]

    def _show(self, topic: str, partition: int) -> None:
        self._topic, self._partition = topic, partition
        self._state: PartitionState | None = self.states.get(partition)
        cache = ValueCache() if self._state is None else self._state.cache
        cache.__missing__ = self._deeper
        self.__missing__ = cache.__getitem__

    def _deeper(self, key: K) -> V:
        """Return what `[]` gives for a key that is neither in the uncommitted writes nor in the cache."""
        raise NotImplementedError

    def _delete(self, key: K) -> None:
        """Delete a key from the uncommitted writes and the cache; reads look at the cache before `_deleted`."""
        dict.pop(self, key, None)
        self._deleted[key] = None
        if self._state is not None:
            self._state.cache.pop(key, None)

    def close(self) -> None:
        """Hide the partition, because the agent is suspended."""
        self.__class__ = self.closed_class  # pyright: ignore[reportAttributeAccessIssue]

    def move_to_epoch(self) -> None:
        """Move the uncommitted writes into the epoch of the partition that is shown.

        Raises:
            Usage: this worker has no such partition of the table.
            BadRecord: a key cannot be a key of a table.
        """
        if dict.__len__(self) == 1 and not self._deleted:
            return
        state = self._state
        if state is None:
            self.discard_writes()
            raise self._no_partition()
        self._writer_topics.add(self._topic)
        # A dict whose class overrides `__iter__` is copied pair by pair; this class does not, so it is copied at once.
        shown, self.__class__ = self.__class__, UncommittedWrites  # pyright: ignore[reportAttributeAccessIssue]
        changes = dict.copy(self)
        self.__class__ = shown  # pyright: ignore[reportAttributeAccessIssue]
        if changes.pop(SENTINEL[0]) is not SENTINEL[1]:
            raise BadRecord(f"table {self.name}: {SENTINEL[0]!r} cannot be a key of a table")
        if not (state.add_to_epoch(changes, self._deleted) or self.tracking) and self._has_untracked(changes):
            self.untracked = True
        self.discard_writes()

    def writes(self) -> Iterable[tuple[K, V]]:
        """Iterate over the pairs that were written since the last `move_to_epoch`."""
        return islice(dict.items(self), 1, None)

    def discard_writes(self) -> None:
        """Forget everything that was written and deleted since the last `move_to_epoch`."""
        if dict.__len__(self) > 1:
            dict.clear(self)
            dict.__setitem__(self, *SENTINEL)
        self._deleted.clear()
        if self._put:
            self._put = {}

    # Pending changes ------------------------------------------------------------------------------------------------

    def defer(self, changes: PendingChanges) -> None:
        """Apply these changes to the partition when it is next read or written.

        They replace the pending changes of the same topic.
        """
        if self._state is None:
            raise self._no_partition()
        self.pending.setdefault(self._partition, {})[self._topic] = changes
        self.__class__ = self.pending_class  # pyright: ignore[reportAttributeAccessIssue]

    def apply_pending(self) -> None:
        """Apply the pending changes of the partition that is shown.

        Raises:
            BadRecord: see `PendingChanges`; the changes stay pending.
        """
        found = self.pending.get(self._partition, {})
        self.__class__ = self.open_class  # pyright: ignore[reportAttributeAccessIssue]
        while found:
            topic, changes = next(iter(found.items()))
            try:
                changes.apply_to(self)
            except BaseException:
                self.__class__ = self.pending_class  # pyright: ignore[reportAttributeAccessIssue]
                raise
            self._writer_topics.add(topic)
            del found[topic]
        self.pending.pop(self._partition, None)

    def _apply_all_pending(self) -> None:
        for partition, found in list(self.pending.items()):
            self.open(next(iter(found)), partition)
            self.apply_pending()

    # Savepoints -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check that what was written since the last savepoint can be kept; changes nothing.

        Raises:
            BadRecord: a key or value cannot be kept.
        """
        if dict.__len__(self) > 1:
            self.key_codec.keep_all([key for key, _ in self.writes()])
            self.value_codec.keep_all([value for _, value in self.writes()])

    def savepoint(self) -> None:
        """Make `discard_writes` return to this point. Mutable values are then given to agents as copies.

        A savepoint of several tables calls `check` of each before `savepoint` of the first, so that all have it or none
        has.

        Raises:
            BadRecord: see `check`; the uncommitted writes are kept.
        """
        self.check()
        # Pending changes are not of the next record, so rolling that back must not discard them. If they cannot be
        # applied, the barrier raises.
        with contextlib.suppress(BadRecord):
            self._apply_all_pending()
        self._in_savepoints = True
        self.move_to_epoch()

    def end_savepoints(self) -> None:
        """Give agents the values themselves again, instead of copies."""
        self._in_savepoints = False

    # Commits --------------------------------------------------------------------------------------------------------

    @property
    def writer_topics(self) -> set[str]:
        """Topics whose agents have written to the table in this epoch."""
        return self._writer_topics

    def encode_epoch(self, partitions_of: Callable[[str], int]) -> dict[int, Changes]:
        """Return the changes of the epoch by partition; called at the barrier.

        Args:
            partitions_of: returns the number of partitions of a topic.

        Raises:
            Usage: a topic that agents wrote from has another number of partitions than the changelog.
            BadRecord: a change cannot be encoded, or pending changes cannot be applied.
        """
        if self.pending:
            try:
                self._apply_all_pending()
            finally:
                self.close()
        self.move_to_epoch()
        for topic in self._writer_topics:
            if partitions_of(topic) != self.changelog_partitions:
                raise self._partition_mismatch(topic, partitions_of(topic))
        return {p: changes for p, state in self.states.items() if state.touched and len(changes := state.encode())}

    def epoch_committed(self, changes: Mapping[int, Changes], positions: Mapping[int, int]) -> None:
        """Write the changes that Kafka has committed to the stores, and start a new epoch.

        Args:
            changes: the result of `encode_epoch`.
            positions: partition -> changelog position after its changes.
        """
        for partition, state in self.states.items():
            made = changes.get(partition)
            if made is not None:
                state.apply(made, positions[partition])
            else:
                state.drop()
        self.all_writer_topics |= self._writer_topics
        self._writer_topics.clear()
        self._forget_tracked()

    def drop_epoch(self) -> None:
        """Forget everything that is not committed."""
        self.discard_writes()
        self.pending.clear()
        self._show("", -1)
        self._writer_topics.clear()
        self._forget_tracked()
        for state in self.states.values():
            state.drop()

    def _forget_tracked(self) -> None:
        """The epoch has ended: values that agents hold are theirs, and the next read comes from the store."""
        self._tracked = []
        if self.untracked and not self.tracking:
            self._start_tracking()
        self.untracked = False

    def detach(self, state: PartitionState, key: object, value: object) -> None:
        """Replace a value that an agent has held during a record by an equal one that it does not hold.

        Raises:
            BadRecord: the value cannot be kept.
        """
        if state is self._state and dict.get(self, key, ABSENT) is value:
            copy = state.detach(key, value)
            if copy is ABSENT:
                dict.pop(self, key)
            else:
                dict.__setitem__(self, key, copy)
        elif state.epoch.get(key, ABSENT) is value:  # the table was turned to another partition in the meantime
            state.replace(key, value, state.detach(key, value))
        else:
            return  # the key was deleted, or has another value now
        state.originals.pop((key, id(value)), None)

    # Partitions -----------------------------------------------------------------------------------------------------

    def new_state(self, store: Store | None = None) -> PartitionState:
        """Return the state of a partition that the table does not show yet.

        Args:
            store: its committed content; None is an empty store in memory.
        """
        state = self._make_state(MemoryStore() if store is None else store)
        state.table = self.name
        return state

    def _make_state(self, store: Store) -> PartitionState:
        return PartitionState(store, self.key_codec, self.value_codec, sets=self.sets)

    def add_partition(self, partition: int, state: PartitionState | None = None) -> PartitionState:
        """Add a partition of this worker, so that agents can use it.

        Args:
            state: its state, restored; None is an empty one.
        """
        state = self.states[partition] = self.new_state() if state is None else state
        self._partition = -1  # an agent may have been resumed here while the partition was missing: look again
        return state

    def visible_states(self) -> list[PartitionState]:
        """Return the partitions that can be read outside of agents."""
        return list(self.states.values())

    def suspend_others(self, keep: set[int]) -> None:
        """Suspend all partitions but these: their stores stay open, so that one that returns needs no restore."""
        self.drop_epoch()
        for partition in self.states.keys() - keep:
            self._suspended[partition] = self.states.pop(partition)

    def take_suspended(self) -> dict[int, PartitionState]:
        """Return the suspended partitions and forget them; the caller adds them again or closes their stores."""
        suspended, self._suspended = self._suspended, {}
        return suspended

    def _no_partition(self) -> Stop:
        return Usage(
            f"table {self.name}: partition {self._partition} of topic {self._topic} has no matching partition in the "
            f"changelog, which has {self.changelog_partitions} partitions",
            hint=f"a table and the topics whose agents write to it need the same number of partitions; {_KEYS_MOVED}",
        )

    def _partition_mismatch(self, topic: str, partitions: int) -> Stop:
        return Usage(
            f"table {self.name}: topic {topic} has {partitions} partitions, the changelog "
            f"{self.changelog_name} has {self.changelog_partitions}",
            hint=f"give both the same number (partitions=…), or repartition the stream with group_by; {_KEYS_MOVED}",
        )

    # The form of content in changelogs and stores -------------------------------------------------------------------

    def value_bytes(self, stored: bytes) -> bytes:
        """Return the part of a stored value that the value codec decodes."""
        return stored

    def content(self, data: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Return the pairs that a partition holds, given its changelog: encoded keys -> encoded values."""
        return data

    def plain(self, value: object) -> object:
        """Return a value in the form that JSON output shows: sets as lists in a stable order."""
        return msgspec.json.decode(self.value_codec.encode(value)) if self.sets else value

    @property
    def changelog_name(self) -> str:
        """Name of the changelog topic."""
        assert self.changelog_topic is not None
        return self.changelog_topic.get_topic_name()


def end_record(tracked: list[TrackedValue], others: Sequence[list[TrackedValue]] = ()) -> None:
    """Detach the values that an agent held during a record: from now on, agent and tables share none of them.

    Args:
        tracked: the values of the agent whose record ends; the list is cleared.
        others: values of agents that are still at their records. A value that one of them holds as well stays attached
            until that record ends, so that no change of it is lost.

    Raises:
        BadRecord: a value cannot be kept.
    """
    held = {id(value) for other in others for _, _, _, value in other} if others else ()
    for table, state, key, value in tracked:
        if not held or id(value) not in held:
            table.detach(state, key, value)
    tracked.clear()
