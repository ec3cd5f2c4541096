"""The engine's side of a table: whose partition it shows, and how its changes move on until the gate.

The overlay is a real dict, the table object itself: what the agent has changed since the table was turned to the
partition it shows. `leave` moves it into the partition's epoch (`state.py`), and the gate encodes the epoch.

C code that takes a dict for one (`msgspec`, `orjson`) looks past the methods of a subclass, at the overlay alone. So
the first pair of each overlay is one that no encoder takes (`NO_DICT`): it raises TypeError, at no cost to agents. What
goes by the methods (`dict(table)`, `json.dumps`) sees all of the table and never that pair. Its key is text, because
dicts of texts alone are faster.
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
from .partition_state import ABSENT, IMMUTABLE, PartitionState, View
from .store import Changes, MemoryStore, Store

__all__ = ["Handed", "K", "UncommittedWrites", "V", "Waiting", "end_record"]

K = TypeVar("K", default=Any)
V = TypeVar("V", default=Any)


def _refuse(_: object) -> NoReturn:
    raise TypeError("a table cannot be encoded as it is: give dict(table) or table.copy()")


# An enum's member to encoders, which ask it for its value; made by hand, because enums refuse to be made so.
_MEMBER = {"_value_": property(_refuse), "value": property(_refuse), "__slots__": ()}
NO_DICT: Any = "\0anabranch: a table is no dict", object.__new__(type.__new__(EnumMeta, "Table", (), _MEMBER))

# What an agent holds of the classes these have is no more shared than a number is; the gate refuses such values.
_SCALAR_BASES = (int, float, str, bytes)


Handed = tuple["TakesBack", PartitionState, object, object]
"""A value that can be changed in place and that an agent has, read or written: its table, partition and key, and it."""

_MOVED = (
    "where partitions were added to a live topic its keys have moved, and the table has to be computed anew under "
    "another app id"
)


class ChangelogTopic(Protocol):
    """A Faust topic."""

    def get_topic_name(self) -> str:
        """Return its name in Kafka."""
        ...


class Waiting(Protocol):
    """Changes of one partition that are folded into it once somebody looks; see `table.py`."""

    def fold(self, table: UncommittedWrites) -> None:
        """Into the table, which is open at the partition.

        Raises:
            BadRecord: it cannot be; then the table is as it was, and the epoch is to be done again without waiting.
        """
        ...


class TakesBack(Protocol):
    """A table, for `end_record`."""

    def take_back(self, state: PartitionState, key: object, value: object) -> None:
        """See `UncommittedWrites.take_back`."""
        ...


class UncommittedWrites(dict[K, V]):
    """What all tables have below the dict that agents see; for the arguments see `Table`.

    Attributes:
        states: partition -> its state, for the partitions of this worker.
        ttl_ms: the time-to-live of keys; None where they have none.
        opened, closed: the classes of this object while an agent runs, and while none does; `unsettled`: while one runs
            at a partition with something `waiting`.
        waiting: partition -> topic -> what waits.
        written_from: topics whose agents have written to it since the start.
        local: content is meant to be by partition: the same key may be in several.
        everywhere: whether every worker holds all of it.
        private: the class of this object while an agent runs, once it is known to hold values that can be changed in
            place: it notes which of them the agent has (`PrivateTable`).
        watched: whether that is so; late: whether it has become so with values that nobody has noted, so that the
            epoch is to be done again.
    """

    # What a dict calls for a key that it does not have is looked up in its class, and there this is a slot: so each
    # table has one of its own. It is the `__getitem__` of the view that is shown, at a fifth of what a method costs.
    __slots__ = ("__dict__", "__missing__", "__weakref__")
    __missing__: Callable[[K], V]

    ttl_ms: int | None = None
    everywhere: ClassVar[bool] = False
    opened: ClassVar[type[UncommittedWrites]]
    unsettled: ClassVar[type[UncommittedWrites]]
    closed: ClassVar[type[UncommittedWrites]]
    private: ClassVar[type[UncommittedWrites]]

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
        dict.__setitem__(self, *NO_DICT)
        self.name, self.help = name, help
        self.default: Callable[[], V] | None = cast("Callable[[], V]", set) if sets else default
        self.partitions, self.store = partitions, store
        self.config = dict(config or {})
        self.key_type, self.value_type = key_type, value_type
        self.key_codec: Codec = key_codec(key_type)
        self.sets, self.local = sets, local
        self.value_codec: Codec = set_codec(name, value_type) if sets else value_codec(name, value_type, default)
        self.changelog_topic: ChangelogTopic | None = None
        self.changelog_partitions = 0
        self.states: dict[int, PartitionState] = {}
        self._set_aside: dict[int, PartitionState] = {}
        self._writers: set[str] = set()
        self.written_from: set[str] = set()
        self._deleted: set[object] = set()
        self._copying = False
        self.waiting: dict[int, dict[str, Waiting]] = {}
        self.watched = self.late = False
        self._put: dict[K, V] = {}
        self._handed: list[Handed] = []
        self._show("", -1)
        if self._holds_mutables(value_type):
            self._watch()
        self.close()

    def _holds_mutables(self, declared: object) -> bool:
        """Whether it is known from the beginning that values can be changed in place."""
        if self.default is not None:
            return type(self.default()) not in IMMUTABLE
        kind = get_origin(declared) or declared  # list for list[int]; of a union it is not known
        return isinstance(kind, type) and kind not in IMMUTABLE and kind is not UnionType and not issubclass(kind, Enum)

    def _watch(self) -> None:
        """From here on it is noted which values agents have."""
        self.watched = True
        self.opened = self.private  # pyright: ignore[reportAttributeAccessIssue]
        if self.late or self._unnoted(dict(self.fresh())):
            self.late = True

    def _unnoted(self, changes: Mapping[K, V]) -> bool:
        """Whether an agent may have some of these values, and nobody has noted it."""
        put = self._put
        if put and len(put) == len(changes) and all(map(is_, changes.values(), put.values())):
            return False
        return any(
            kind not in IMMUTABLE and not issubclass(kind, _SCALAR_BASES) and put.get(key, ABSENT) is not value
            for key, value in changes.items()
            if (kind := type(value))
        )

    # The engine's side ------------------------------------------------------------------------------------------

    def open(self, topic: str, partition: int, handed: list[Handed] | None = None) -> None:
        """Show `partition` to an agent that reads `topic`.

        Args:
            handed: where it is noted what the agent has of this record; see `end_record`.
        """
        if handed is not None:
            self._handed = handed
        if partition != self._partition or topic != self._topic:
            self.leave()
            self._show(topic, partition)
        self.__class__ = self.unsettled if partition in self.waiting else self.opened  # pyright: ignore[reportAttributeAccessIssue]

    def _show(self, topic: str, partition: int) -> None:
        self._topic, self._partition = topic, partition
        self._state: PartitionState | None = self.states.get(partition)
        view = View() if self._state is None else self._state.view
        view.__missing__ = self._deeper
        self.__missing__ = view.__getitem__

    def _deeper(self, key: K) -> V:
        """The value of a key that is neither here nor in the view, as `[]` gives it."""
        raise NotImplementedError

    def _delete(self, key: K) -> None:
        """It is gone, for whoever looks here; the view is looked at before this can be asked."""
        dict.pop(self, key, None)
        self._deleted.add(key)
        if self._state is not None:
            self._state.view.pop(key, None)

    def close(self) -> None:
        """The agent is suspended."""
        self.__class__ = self.closed  # pyright: ignore[reportAttributeAccessIssue]

    def leave(self) -> None:
        """Move the overlay into its partition's epoch."""
        if dict.__len__(self) == 1 and not self._deleted:
            return
        state = self._state
        if state is None:
            self.discard_overlay()
            raise self._no_partition()
        self._writers.add(self._topic)
        # A dict whose class iterates in its own way is copied pair by pair; this class does not.
        shown, self.__class__ = self.__class__, UncommittedWrites  # pyright: ignore[reportAttributeAccessIssue]
        changes = dict.copy(self)
        self.__class__ = shown  # pyright: ignore[reportAttributeAccessIssue]
        if changes.pop(NO_DICT[0]) is not NO_DICT[1]:
            raise BadRecord(f"table {self.name}: {NO_DICT[0]!r} cannot be a key of a table")
        if not (state.move(changes, self._deleted) or self.watched) and self._unnoted(changes):
            self.late = True
        self.discard_overlay()

    def fresh(self) -> Iterable[tuple[K, V]]:
        """What was changed since the last `leave`."""
        return islice(dict.items(self), 1, None)

    def wait(self, changes: Waiting) -> None:
        """The open partition changes by this, once somebody looks; in place of what waits of the same topic."""
        if self._state is None:
            raise self._no_partition()
        self.waiting.setdefault(self._partition, {})[self._topic] = changes
        self.__class__ = self.unsettled  # pyright: ignore[reportAttributeAccessIssue]

    def settle(self) -> None:
        """Fold what waits at the open partition.

        Raises:
            BadRecord: see `Waiting`; it still waits then.
        """
        found = self.waiting.get(self._partition, {})
        self.__class__ = self.opened  # pyright: ignore[reportAttributeAccessIssue]
        while found:
            topic, changes = next(iter(found.items()))
            try:
                changes.fold(self)
            except BaseException:
                self.__class__ = self.unsettled  # pyright: ignore[reportAttributeAccessIssue]
                raise
            self._writers.add(topic)
            del found[topic]
        self.waiting.pop(self._partition, None)

    def _settle_all(self) -> None:
        for partition, found in list(self.waiting.items()):
            self.open(next(iter(found)), partition)
            self.settle()

    def discard_overlay(self) -> None:
        """Forget what was changed since the last `leave`."""
        if dict.__len__(self) > 1:
            dict.clear(self)
            dict.__setitem__(self, *NO_DICT)
        self._deleted.clear()
        if self._put:
            self._put = {}

    def drop_epoch(self) -> None:
        """Forget everything that is not committed."""
        self.discard_overlay()
        self.waiting.clear()
        self._show("", -1)
        self._writers.clear()
        self._forget_handed()
        for state in self.states.values():
            state.drop()

    def check(self) -> None:
        """Raise BadRecord if what was written since the last savepoint cannot be kept; changes nothing."""
        if dict.__len__(self) > 1:
            self.key_codec.keep_all([key for key, _ in self.fresh()])
            self.value_codec.keep_all([value for _, value in self.fresh()])

    def savepoint(self) -> None:
        """From here on, `discard_overlay` undoes; mutable values are handed out as copies.

        Several tables make one savepoint: `check` all of them before the first moves, so that it holds for all or none.

        Raises:
            BadRecord: as `check`; the overlay is still there.
        """
        self.check()
        # What waits is not the next record's, so undoing that must not undo it. What cannot be folded, the gate says.
        with contextlib.suppress(BadRecord):
            self._settle_all()
        self._copying = True
        self.leave()

    def trust(self) -> None:
        """End of `savepoint` mode."""
        self._copying = False

    @property
    def writers(self) -> set[str]:
        """Topics whose agents have written to it in this epoch."""
        return self._writers

    def encode_epoch(self, partitions_of: Callable[[str], int]) -> dict[int, Changes]:
        """Changes by partition, for the gate.

        Raises:
            Usage: a topic was read whose partition count differs from the changelog's.
            BadRecord: something cannot be encoded, or folded.
        """
        if self.waiting:
            try:
                self._settle_all()
            finally:
                self.close()
        self.leave()
        for topic in self._writers:
            if partitions_of(topic) != self.changelog_partitions:
                raise self._mismatch(topic, partitions_of(topic))
        return {p: changes for p, state in self.states.items() if state.touched and len(changes := state.encode())}

    def epoch_committed(self, changes: Mapping[int, Changes], positions: Mapping[int, int]) -> None:
        """Kafka has committed `changes`; `positions` are the changelog positions after them."""
        for partition, state in self.states.items():
            made = changes.get(partition)
            if made is not None:
                state.apply(made, positions[partition])
            else:
                state.drop()
        self.written_from |= self._writers
        self._writers.clear()
        self._forget_handed()

    def _forget_handed(self) -> None:
        """The epoch has ended: whatever agents have is theirs, and what is read next comes from the store."""
        self._handed = []
        if self.late and not self.watched:
            self._watch()
        self.late = False

    def take_back(self, state: PartitionState, key: object, value: object) -> None:
        """A record has ended: what its agent has is the agent's own, the table goes on with an equal value.

        Raises:
            BadRecord: the value cannot be kept.
        """
        if state is self._state and dict.get(self, key, ABSENT) is value:
            copy = state.owned(key, value)
            if copy is ABSENT:
                dict.pop(self, key)
            else:
                dict.__setitem__(self, key, copy)
        elif state.epoch.get(key, ABSENT) is value:  # the table was turned to another partition meanwhile
            state.replace(key, value, state.owned(key, value))
        else:
            return  # deleted, or another one was put in its place
        state.borrowed.pop((key, id(value)), None)

    def state_of(self, store: Store | None = None) -> PartitionState:
        """A partition that is not shown yet: with this store, or empty."""
        state = self._new_state(MemoryStore() if store is None else store)
        state.table = self.name
        return state

    def _new_state(self, store: Store) -> PartitionState:
        return PartitionState(store, self.key_codec, self.value_codec, sets=self.sets)

    def add_partition(self, partition: int, state: PartitionState | None = None) -> PartitionState:
        """Own a partition, and show it."""
        state = self.states[partition] = self.state_of() if state is None else state
        self._partition = -1  # an agent may have been resumed here while the partition was away: look again
        return state

    def held(self) -> list[PartitionState]:
        """The partitions that are shown outside of agents."""
        return list(self.states.values())

    def set_aside(self, keep: set[int]) -> None:
        """Other partitions are gone; their stores are kept, so that one that comes back needs no restore."""
        self.drop_epoch()
        for partition in self.states.keys() - keep:
            self._set_aside[partition] = self.states.pop(partition)

    def take_set_aside(self) -> dict[int, PartitionState]:
        """What has gone, for who brings it back (`add_partition`) or closes it."""
        gone, self._set_aside = self._set_aside, {}
        return gone

    def _no_partition(self) -> Stop:
        return Usage(
            f"table {self.name}: partition {self._partition} of topic {self._topic} has no counterpart in the "
            f"changelog, which has {self.changelog_partitions} partitions",
            hint=f"a table and the topics whose agents write to it need the same number of partitions; {_MOVED}",
        )

    def _mismatch(self, topic: str, partitions: int) -> Stop:
        return Usage(
            f"table {self.name}: topic {topic} has {partitions} partitions, the changelog "
            f"{self.changelog_name} has {self.changelog_partitions}",
            hint=f"give both the same number (partitions=…), or repartition the stream with group_by; {_MOVED}",
        )

    def value_bytes(self, stored: bytes) -> bytes:
        """What of a value in store and changelog is for its codec."""
        return stored

    def content(self, data: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """What a partition holds by its changelog: key bytes -> value bytes, as the codecs know them."""
        return data

    def plain(self, value: object) -> object:
        """A value as JSON shows it: sets as lists, in an order that does not depend on how they came about."""
        return msgspec.json.decode(self.value_codec.encode(value)) if self.sets else value

    @property
    def changelog_name(self) -> str:
        """Name of the changelog topic."""
        assert self.changelog_topic is not None
        return self.changelog_topic.get_topic_name()


def end_record(handed: list[Handed], elsewhere: Sequence[list[Handed]] = ()) -> None:
    """The agent that these values were handed to is through with its record: from here on it and the tables go apart.

    Args:
        elsewhere: what agents have that are still at their records. What one of them has as well stays as it is until
            that record ends, so that no change of it is lost.

    Raises:
        BadRecord: a value cannot be kept.
    """
    theirs = {id(value) for others in elsewhere for _, _, _, value in others} if elsewhere else ()
    for table, state, key, value in handed:
        if not theirs or id(value) not in theirs:
            table.take_back(state, key, value)
    handed.clear()
