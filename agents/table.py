"""Tables: what agents hold between records, as dicts that Kafka remembers.

To an agent a table is a dict: `totals[user] += amount`. The table object itself is the overlay, a real dict, so reading
and writing a key that this epoch has touched runs at C speed; only a key's first read goes further down (`state.py`).

Laws.
- A table is *open* while an agent runs, and then shows the partition of the record the agent works on. The engine opens
  it before it resumes an agent and closes it when the agent suspends.
- A closed table (timers, HTTP, other tasks) shows the committed state of all local partitions and refuses writes.
- Nothing leaves the process before the gate; there the last value of each changed key goes to the changelog.

Open and closed are two classes of one object: `__class__` is switched (0.06 µs a switch), because a dict subclass that
overrides `__getitem__` or `__setitem__` in Python loses C speed even for an override that does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from ..topics.errors import BadRecord, Stop, Usage
from ..topics.serde import Codec, key_codec, value_codec
from .state import ABSENT, IMMUTABLE, PartitionState
from .store import Changes, MemoryStore, Store

__all__ = ["ClosedTable", "Table"]

_UNTOUCHED: Any = object()


class Table(dict[Any, Any]):
    """A table, while it is open; see the module's laws.

    Args:
        name: unique in the app; the changelog is `<app id>-<name>-changelog`.
        default: makes the value of a key that is not there; None means KeyError.
        partitions: of the changelog; None takes that of the topics the app reads.
        key_type, value_type: see `anabranch.topics.serde`; without them keys and values are JSON as it comes.
        help: shown in lists.
        config: topic configuration of the changelog, under Kafka's names.
        store: `memory`, or `rocksdb` for a table on disk.
    """

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
    ) -> None:
        super().__init__()
        self.name, self.default, self.help = name, default, help
        self.partitions, self.store = partitions, store
        self.config = dict(config or {})
        self.key_codec: Codec = key_codec(key_type)
        self.value_codec: Codec = value_codec(name, value_type, default)
        self.changelog_topic: Any = None
        self.changelog_partitions = 0
        self.states: dict[int, PartitionState] = {}
        self._set_aside: dict[int, PartitionState] = {}
        self._state: PartitionState | None = None
        self._view: dict[Any, Any] = {}
        self._partition = -1
        self._topic = ""
        self._writers: set[str] = set()
        self._deleted: set[Any] = set()
        self._copying = False
        self.__class__ = ClosedTable  # pyright: ignore[reportAttributeAccessIssue]

    # The engine's side ------------------------------------------------------------------------------------------

    def open(self, topic: str, partition: int) -> None:
        """Show `partition` to an agent that reads `topic`."""
        if partition != self._partition or topic != self._topic:
            self.leave()
            state = self.states.get(partition)
            self._topic, self._partition, self._state = topic, partition, state
            self._view = state.view if state is not None else {}
        self.__class__ = Table  # pyright: ignore[reportAttributeAccessIssue]

    def close(self) -> None:
        """The agent is suspended."""
        self.__class__ = ClosedTable  # pyright: ignore[reportAttributeAccessIssue]

    def leave(self) -> None:
        """Move the overlay into its partition's epoch."""
        if not dict.__len__(self) and not self._deleted:
            return
        state = self._state
        if state is None:
            self.discard_overlay()
            raise self._no_partition()
        self._writers.add(self._topic)
        state.move(self, self._deleted)
        self.discard_overlay()

    def discard_overlay(self) -> None:
        """Forget what was changed since the last `leave`."""
        dict.clear(self)
        self._deleted.clear()

    def drop_epoch(self) -> None:
        """Forget everything that is not committed."""
        self.discard_overlay()
        self._partition, self._state, self._topic, self._view = -1, None, "", {}
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
        self._copying = True
        self.leave()

    def trust(self) -> None:
        """End of `savepoint` mode."""
        self._copying = False

    def encode_epoch(self, partitions_of: Callable[[str], int]) -> dict[int, Changes]:
        """Changes by partition, for the gate.

        Raises:
            Usage: a topic was read whose partition count differs from the changelog's.
            BadRecord: something cannot be encoded.
        """
        self.leave()
        for topic in self._writers:
            if partitions_of(topic) != self.changelog_partitions:
                raise self._mismatch(topic, partitions_of(topic))
        return {p: changes for p, state in self.states.items() if state.epoch and len(changes := state.encode())}

    def epoch_committed(self, changes: Mapping[int, Changes], positions: Mapping[int, int]) -> None:
        """Kafka has committed `changes`; `positions` are the changelog positions after them."""
        for partition, state in self.states.items():
            made = changes.get(partition)
            if made is not None:
                state.apply(made, positions[partition])
            else:
                state.drop()
        self._writers.clear()

    def add_partition(self, partition: int, store: Store | None = None) -> PartitionState:
        """Own a partition: as it was left when it went away a moment ago, or with this store, or empty."""
        if partition not in self.states:
            store = MemoryStore() if store is None else store
            state = self._set_aside.pop(partition, None)
            self.states[partition] = state or PartitionState(store, self.key_codec, self.value_codec)
            self._partition = -1  # an agent may have been resumed here while the partition was away: look again
        return self.states[partition]

    def set_aside(self, keep: set[int]) -> None:
        """Other partitions are gone; their stores are kept, so that one that comes back needs no restore."""
        self.drop_epoch()
        for partition in self.states.keys() - keep:
            self._set_aside[partition] = self.states.pop(partition)

    def forget_set_aside(self) -> None:
        """What has not come back belongs to another worker now."""
        for state in self._set_aside.values():
            state.store.close()
        self._set_aside.clear()

    def _no_partition(self) -> Stop:
        return Usage(
            f"table {self.name}: partition {self._partition} of topic {self._topic} has no counterpart in the "
            f"changelog, which has {self.changelog_partitions} partitions",
            hint="a table and the topics whose agents write to it need the same number of partitions",
        )

    def _mismatch(self, topic: str, partitions: int) -> Stop:
        return Usage(
            f"table {self.name}: topic {topic} has {partitions} partitions, the changelog "
            f"{self.changelog_name} has {self.changelog_partitions}",
            hint="give both the same number (partitions=…), or repartition the stream with group_by",
        )

    @property
    def changelog_name(self) -> str:
        """Name of the changelog topic."""
        return self.changelog_topic.get_topic_name()

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return object.__hash__(self)

    # The agent's side -------------------------------------------------------------------------------------------

    def __missing__(self, key: Any) -> Any:
        if not self._deleted:
            try:
                return self._view[key]
            except KeyError:
                pass
        state = self._need_state()
        value = ABSENT if key in self._deleted else state.epoch.get(key, _UNTOUCHED)
        if value is _UNTOUCHED:
            value = state.committed(key)
            if value is not ABSENT:
                if type(value) in IMMUTABLE:
                    state.remember(key, value)
                else:
                    state.borrow(key, value, existed=True)
                    dict.__setitem__(self, key, value)
                return value
        elif value is not ABSENT:
            if type(value) in IMMUTABLE:
                return value
            # In savepoint mode, a default that an earlier record only looked at is none: this one gets its own.
            if not self._copying or state.live(key, value):
                value = state.private_copy(key, value) if self._copying else value
                dict.__setitem__(self, key, value)
                return value
        if self.default is None:
            raise KeyError(key)
        value = self.default()
        if type(value) not in IMMUTABLE:
            state.borrow(key, value, existed=False)
            dict.__setitem__(self, key, value)
        return value

    def _need_state(self) -> PartitionState:
        if self._state is None:
            raise self._no_partition()
        return self._state

    def _below(self, key: Any) -> Any:
        """What lies under the overlay, ABSENT if nothing does."""
        if key in self._deleted:
            return ABSENT
        state = self._need_state()
        for closer in (state.view, state.epoch):
            if key in closer:
                return closer[key]
        return state.committed(key)

    def _find(self, key: Any) -> Any:
        """The value as agents see it, ABSENT if there is none; an untouched default that was only read is none."""
        state = self._need_state()
        value = dict.get(self, key, ABSENT)
        if value is ABSENT:
            value = self._below(key)
        return value if value is not ABSENT and state.live(key, value) else ABSENT

    def __contains__(self, key: object) -> bool:
        return self._find(key) is not ABSENT

    def get(self, key: Any, default: Any = None) -> Any:
        """As dict.get: the table's own default is not used."""
        return self[key] if key in self else default  # noqa: SIM401 (this is `get`)

    def __delitem__(self, key: Any) -> None:
        if key not in self:
            raise KeyError(key)
        dict.pop(self, key, None)
        self._deleted.add(key)

    def pop(self, key: Any, *default: Any) -> Any:
        """As dict.pop."""
        if key in self:
            value = self[key]
            del self[key]
            return value
        if default:
            return default[0]
        raise KeyError(key)

    def popitem(self) -> tuple[Any, Any]:
        """Remove some pair; which one is not defined."""
        for key in self:
            return key, self.pop(key)
        raise KeyError("popitem(): table is empty")

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """As dict.setdefault."""
        if key not in self:
            self[key] = default
        return self[key]

    def clear(self) -> None:
        """Delete every key of this partition."""
        for key in list(self):
            del self[key]

    def _merged(self) -> dict[Any, Any]:
        state = self._need_state()
        seen = dict(state.committed_items())
        seen.update(state.epoch)
        for key in self._deleted:
            seen[key] = ABSENT
        seen.update(dict.items(self))
        return {key: value for key, value in seen.items() if state.live(key, value)}

    def __iter__(self) -> Iterator[Any]:
        return iter(self._merged())

    def __len__(self) -> int:
        return len(self._merged())

    def __bool__(self) -> bool:
        return len(self) > 0

    def keys(self) -> Any:
        """Keys of this partition, as a snapshot."""
        return self._merged().keys()

    def values(self) -> Any:
        """Values of this partition, as a snapshot."""
        return [self[key] for key in self]

    def items(self) -> Any:
        """Pairs of this partition, as a snapshot."""
        return [(key, self[key]) for key in self]

    def copy(self) -> dict[Any, Any]:
        """A plain dict of the same pairs."""
        return dict(self.items())

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, dict) and dict(self.items()) == other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __or__(self, other: Any) -> Any:
        return self.copy() | dict(other)

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def __reversed__(self) -> Iterator[Any]:
        return reversed(list(self))

    def __repr__(self) -> str:
        return f"<Table {self.name} partition={self._partition}>"

    # Faust's windows come with their own clock in a later step of work; an error now beats data that is never closed.
    def _no_windows(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError("windowed tables are not there yet: keep the window's start in the key")

    tumbling = hopping = using_window = _no_windows


class ClosedTable(Table):
    """A table seen from outside an agent: committed state of all local partitions, read only."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise BadRecord(
            f"table {self.name}: cannot modify a table outside of an agent",
            hint="send a record to an agent that does it; timers and web views can only read",
        )

    def __getitem__(self, key: Any) -> Any:
        value = self._find(key)
        if value is not ABSENT:
            return value
        if self.default is None:
            raise KeyError(key)
        return self.default()

    def _find(self, key: Any) -> Any:
        for state in self.states.values():
            value = state.committed(key)
            if value is not ABSENT:
                return value
        return ABSENT

    def _merged(self) -> dict[Any, Any]:
        return {key: value for state in self.states.values() for key, value in state.committed_items()}

    def items(self) -> Any:
        """All committed pairs of local partitions, as a snapshot."""
        return self._merged().items()

    def values(self) -> Any:
        """All committed values of local partitions, as a snapshot."""
        return self._merged().values()

    def __repr__(self) -> str:
        return f"<Table {self.name} partitions={sorted(self.states)}>"

    __setitem__ = __delitem__ = pop = popitem = setdefault = clear = update = __ior__ = _refuse  # pyright: ignore[reportAssignmentType]
