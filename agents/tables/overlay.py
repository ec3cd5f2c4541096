"""The engine's side of a table: whose partition it shows, and how its changes move on until the gate.

The overlay is a real dict, the table object itself: what the agent has changed since the table was turned to the
partition it shows. `leave` moves it into the partition's epoch (`state.py`), and the gate encodes the epoch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import msgspec

from ...topics.errors import BadRecord, Stop, Usage
from ...topics.serde import Codec, key_codec, set_codec, value_codec
from .state import PartitionState, View
from .store import Changes, MemoryStore, Store

__all__ = ["Overlay", "Waiting"]


_MOVED = (
    "where partitions were added to a live topic its keys have moved, and the table has to be computed anew under "
    "another app id"
)


class Waiting(Protocol):
    """Changes of one partition that are folded into it once somebody looks; see `table.py`."""

    def fold(self, table: Any) -> None:
        """Into the table, which is open at the partition.

        Raises:
            BadRecord: it cannot be; then the table is as it was, and the epoch is to be done again without waiting.
        """
        ...


class Overlay(dict[Any, Any]):
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
    """

    # What a dict calls for a key that it does not have is looked up in its class, and there this is a slot: so each
    # table has one of its own. It is the `__getitem__` of the view that is shown, at a fifth of what a method costs.
    __slots__ = ("__dict__", "__missing__", "__weakref__")
    __missing__: Callable[[Any], Any]

    ttl_ms: int | None = None
    everywhere: ClassVar[bool] = False
    opened: ClassVar[type[Overlay]]
    unsettled: ClassVar[type[Overlay]]
    closed: ClassVar[type[Overlay]]

    def __init__(
        self,
        name: str,
        *,
        default: Callable[[], Any] | None = None,
        partitions: int | None = None,
        key_type: Any = None,
        value_type: Any = None,
        help: str = "",
        config: Mapping[str, str] | None = None,
        store: str = "memory",
        sets: bool = False,
        local: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.default, self.help = name, set if sets else default, help
        self.partitions, self.store = partitions, store
        self.config = dict(config or {})
        self.key_type, self.value_type = key_type, value_type
        self.key_codec: Codec = key_codec(key_type)
        self.sets, self.local = sets, local
        self.value_codec: Codec = set_codec(name, value_type) if sets else value_codec(name, value_type, default)
        self.changelog_topic: Any = None
        self.changelog_partitions = 0
        self.states: dict[int, PartitionState] = {}
        self._set_aside: dict[int, PartitionState] = {}
        self._writers: set[str] = set()
        self.written_from: set[str] = set()
        self._deleted: set[Any] = set()
        self._copying = False
        self.waiting: dict[int, dict[str, Waiting]] = {}
        self._show("", -1)
        self.close()

    # The engine's side ------------------------------------------------------------------------------------------

    def open(self, topic: str, partition: int) -> None:
        """Show `partition` to an agent that reads `topic`."""
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

    def _deeper(self, key: Any) -> Any:
        """The value of a key that is neither here nor in the view, as `[]` gives it."""
        raise NotImplementedError

    def _delete(self, key: Any) -> None:
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
        if not dict.__len__(self) and not self._deleted:
            return
        state = self._state
        if state is None:
            self.discard_overlay()
            raise self._no_partition()
        self._writers.add(self._topic)
        # A dict whose class iterates in its own way is copied pair by pair; this class does not.
        shown, self.__class__ = self.__class__, Overlay  # pyright: ignore[reportAttributeAccessIssue]
        changes = dict.copy(self)
        self.__class__ = shown  # pyright: ignore[reportAttributeAccessIssue]
        state.move(changes, self._deleted)
        self.discard_overlay()

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
        dict.clear(self)
        self._deleted.clear()

    def drop_epoch(self) -> None:
        """Forget everything that is not committed."""
        self.discard_overlay()
        self.waiting.clear()
        self._show("", -1)
        self._writers.clear()
        for state in self.states.values():
            state.drop()

    def check(self) -> None:
        """Raise BadRecord if what was written since the last savepoint cannot be kept; changes nothing."""
        if dict.__len__(self):
            self.key_codec.keep_all(list(dict.keys(self)))
            self.value_codec.keep_all(list(dict.values(self)))

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

    def plain(self, value: Any) -> Any:
        """A value as JSON shows it: sets as lists, in an order that does not depend on how they came about."""
        return msgspec.json.decode(self.value_codec.encode(value)) if self.sets else value

    @property
    def changelog_name(self) -> str:
        """Name of the changelog topic."""
        return self.changelog_topic.get_topic_name()
