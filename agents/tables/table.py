"""Tables: keyed state of agents, used as dicts and restored from changelogs in Kafka.

Invariants.
- While an agent runs, a table shows the partition of the agent's record: it is *open* (`OpenPartition`). The first
  touch in a step of the agent opens it, and the end of the step closes it. A table that is not touched costs nothing.
- A closed table (in timers, web views, other tasks) shows the committed state of all local partitions and refuses
  writes.
- Nothing leaves the process before the barrier; there the last value of each changed key goes to the changelog.
- A table and its agents share no value beyond a record; see `OpenPartition`.

A table is a `MutableMapping` and no dict, because C code reads the memory of a dict and not its methods: encoders would
see the uncommitted writes alone. `dict(table)` gives a plain dict; `json.dumps(table)` raises TypeError.

`[]` and `[]=` are two slots, which hold functions: those of the open partition, or those that open it. So whether a
table is open is a field, and a hot loop pays for no test of it. Measured on CPython 3.11, CPU ns for `table[key] += 1`
with keys of a keyed sum (1,400 ns a record):

    83   a dict subclass, which would be open or closed by its class
   179   methods in Python over a dict
   145   slots with the dict's own `__getitem__` and `__setitem__` (which C calls with a tuple)
   110   slots with `__getitem__` and `MethodType(operator.setitem, dict)`: 2 % of a record more than the subclass
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, KeysView, Mapping, MutableMapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, SupportsIndex, cast

import msgspec

from ...topics.private_fields import NOTHING, PrivateFields, PrivateNames
from ...topics.serde import Codec, key_codec, set_codec, value_codec
from .absent import ABSENT, Absent
from .agent_step import AgentStep
from .open_partition import K, OpenPartition, V
from .partition_state import PartitionState
from .store import MemoryStore, Store
from .stored_content import StoredContent
from .table_errors import no_partition, no_source, not_writable
from .table_windows import hopping, tumbling, using_window
from .uncommitted_writes import UncommittedWrites

if TYPE_CHECKING:
    from ..event_time.windows import Windows
    from .window_wrapper import WindowWrapper

__all__ = ["Table"]

# A type checker knows these two by their methods.
_ACCESS = ("__getitem__", "__setitem__")


class ChangelogTopic(Protocol):
    """A Faust topic."""

    def get_topic_name(self) -> str:
        """Return its name in Kafka."""
        ...

    @property
    def app_private(self) -> PrivateNames:
        """The private fields of all topics and tables of the app."""
        ...


class SourceTopic(Protocol):
    """A topic that an agent of the table reads.

    Attributes:
        topics: names of the topic; most topics have one.
    """

    @property
    def topics(self) -> Sequence[str]: ...


class Table(MutableMapping[K, V]):
    """A table of an app; make one with `app.Table`.

    Args:
        name: unique in the app. The changelog topic is `<app id>-<name>-changelog`.
        default: makes the value of a key that does not exist; with None, reading such a key raises KeyError.
        partitions: of the changelog; None takes the number of the topics that the app reads.
        key_type: type of the keys, see `anabranch.topics.serde`; None is untyped JSON.
        value_type: type of the values; None is untyped JSON.
        help: a description, shown in lists of tables.
        config: topic configuration of the changelog, under Kafka's names.
        store: `memory`, or `rocksdb` for a table on disk.
        sets: values are sets, and `value_type` is the type of their elements. A key whose set is empty does not exist,
            so adding to a set and removing again leaves the same table wherever a commit falls in between.
        local: content is kept per partition on purpose: a key may be in several partitions, and results name them.
        step: returns the running step of an agent; None: a step of the table's own.

    Attributes:
        states: partition -> its state, for the partitions of this worker.
        ttl_ms: time-to-live of keys in ms; None if they do not expire.
        keeps_stream_time: whether partitions hold their stream time under `STREAM_TIME`.
        store_scheme: kind of the stores, `memory` or `rocksdb`.
        is_global: whether every worker holds the whole table.
        is_result: whether the program has declared it, so that it is a result, and not part of something else.
        source_topics: topics with as many partitions as the table; agents of other topics can neither read nor write
            it. None: not known, all can.
        sized_like: the topic whose number of partitions the changelog gets if none is declared; None: not known.
        uncommitted: what agents have done to the table since the last commit.
        state_fields: fields of values that are no results, but the states of a flow's aggregates.
        with_windows: replaces it by a table with these windows, of this size and expiry in ms; None: it cannot be.
    """

    __slots__ = ("__dict__", "__weakref__", *_ACCESS)
    is_global: ClassVar[bool] = False
    is_result: ClassVar[bool] = True
    ttl_ms: int | None = None
    keeps_stream_time = False

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
        step: Callable[[], AgentStep] | None = None,
    ) -> None:
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
        self.source_topics: frozenset[str] | None = None
        self.sized_like: SourceTopic | None = None
        self.state_fields: frozenset[str] = frozenset()
        self.with_windows: Callable[[Windows, int, int | None], WindowWrapper[Any, Any]] | None = None
        self.states: dict[int, PartitionState] = {}
        self._suspended: dict[int, PartitionState] = {}
        # Fills `states` before the first read, in a program that is not a worker.
        self.load: Callable[[], None] | None = None
        self.uncommitted: UncommittedWrites[K, V] = UncommittedWrites(self)
        own_step = AgentStep()
        self.step = step or (lambda: own_step)
        self._shown: OpenPartition[K, V] | None = None
        self._while_closed = self._first_read, self._first_write
        self.close()

    # Open or closed -------------------------------------------------------------------------------------------------

    if not TYPE_CHECKING:  # the slots

        def close(self) -> None:
            """Show the committed content, until an agent touches the table in its next step."""
            self._shown = None
            self.__getitem__, self.__setitem__ = self._while_closed

        def _show(self, partition: OpenPartition[K, V]) -> None:
            self._shown = partition
            self.__getitem__, self.__setitem__ = partition.read, partition.write

    else:

        def close(self) -> None: ...
        def _show(self, partition: OpenPartition[K, V]) -> None: ...
        def __getitem__(self, key: K) -> V: ...
        def __setitem__(self, key: K, value: V) -> None: ...

    def opened(self) -> OpenPartition[K, V] | None:
        """Return the partition of the running agent's record; None if no agent runs.

        Raises:
            Usage: this worker has no such partition of the table.
            BadRecord: pending changes of the partition cannot be applied.
        """
        if self._shown is not None:
            return self._shown
        partition = self.at_hand()
        if partition is not None:
            step = self.step()
            self.uncommitted.tracked = step.tracked
            step.opened.append(self)
            partition.turn_to(step.topic, step.writer)
            self._show(partition)
        return partition

    def at_hand(self) -> OpenPartition[K, V] | None:
        """Return the partition of the running agent's record without opening it; None if no agent runs.

        Raises:
            Usage: this worker has no such partition of the table.
        """
        step = self.step()
        if not step.running:
            return None
        state = self.states.get(step.partition)
        if state is not None:
            return self.uncommitted.at(step.partition, state)
        if self.is_global:
            return None  # an agent of a topic with more partitions than the table has can read it
        self.check_source(step.topic)
        raise no_partition(self, step.topic, step.partition)

    def check_source(self, topic: str) -> None:
        """Refuse agents of topics with another number of partitions than the table has.

        Raises:
            Usage: the topic has another number.
        """
        if self.source_topics is not None and topic not in self.source_topics and not self.is_global:
            raise no_source(self, topic)

    def new_partition(self, state: PartitionState) -> OpenPartition[K, V]:
        """Return a partition as agents see it."""
        return OpenPartition(self, state)

    def opened_to_write(self) -> OpenPartition[K, V]:
        """Return the partition of the running agent's record.

        Raises:
            BadRecord: no agent runs, or pending changes of the partition cannot be applied.
            Usage: this worker has no such partition of the table.
        """
        partition = self._shown or self.opened()
        if partition is None:
            step = self.step()
            raise no_partition(self, step.topic, step.partition) if step.running else not_writable(self)
        return partition

    def _first_read(self, key: K) -> V:
        """`[]` of a closed table."""
        opened = self.opened()
        if opened is not None:
            return opened.read(key)
        value = self._find(key)
        if value is not ABSENT:
            return value
        if self.default is None:
            raise KeyError(key)
        step = self.step()
        if step.running:  # an agent reads a global table: a default could not become a key here
            raise no_partition(self, step.topic, step.partition)
        return self.default()

    def _first_write(self, key: K, value: V) -> None:
        """`[]=` of a closed table."""
        self.opened_to_write().write(key, value)

    # A dict ---------------------------------------------------------------------------------------------------------

    def _find(self, key: object) -> V | Absent:
        """Return a value; ABSENT if there is none or if it is a default that was only read."""
        opened = self._shown or self.opened()
        if opened is not None:
            return opened.find(key)
        found = (state.content.committed(key) for state in self.visible_states())
        return next((value for value in found if value is not ABSENT), ABSENT)

    def _pairs(self) -> dict[K, V]:
        opened = self._shown or self.opened()
        if opened is not None:
            return opened.pairs()
        return {key: value for state in self.visible_states() for key, value in state.content.committed_items()}

    def __contains__(self, key: object) -> bool:
        return self._find(key) is not ABSENT

    def __delitem__(self, key: K) -> None:
        opened = self.opened_to_write()
        if not opened.has(key):
            raise KeyError(key)
        opened.delete(key)

    if not TYPE_CHECKING:  # typed by MutableMapping

        def get(self, key, default=None):
            """Return the value of a key, else `default`; the table's own default is not used."""
            return self[key] if key in self else default  # noqa: SIM401 (this is `get`)

        def pop(self, key, *default):
            """Remove a key and return its value."""
            opened = self.opened_to_write()
            if key in self:
                value = self[key]
                del self[key]
                return value
            opened.forget(key)
            if default:
                return default[0]
            raise KeyError(key)

        def setdefault(self, key, default=None):
            """Return the value of a key; insert `default` if the key does not exist."""
            self.opened_to_write()
            if key not in self:
                self[key] = default
            return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Write many pairs, as `dict.update` does."""
        new: dict[Any, Any] = dict(*args, **kwargs)
        self.opened_to_write().update(new)

    def clear(self) -> None:
        """Delete every key of this partition."""
        self.opened_to_write()
        for key in list(self):
            del self[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._pairs())

    def __reversed__(self) -> Iterator[K]:
        return reversed(self._pairs())

    def __len__(self) -> int:
        return len(self._pairs())

    def keys(self) -> KeysView[K]:
        """Return a snapshot of the keys."""
        return self._pairs().keys()

    def values(self) -> Collection[V]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a snapshot of the values."""
        return [value for _, value in self.items()]

    def items(self) -> Collection[tuple[K, V]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a snapshot of the pairs."""
        opened = self._shown or self.opened()
        return self._pairs().items() if opened is None else opened.items()

    def copy(self) -> dict[K, V]:
        """Return a plain dict of the same pairs."""
        return dict(self.items())

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Mapping) and self.copy() == dict(cast("Mapping[K, V]", other)))

    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]
    __copy__ = __json__ = copy  # Faust's JSON asks for `__json__`

    def __deepcopy__(self, memo: dict[int, object]) -> dict[K, V]:
        return deepcopy(self.copy(), memo)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[type[dict[K, V]], tuple[dict[K, V]]]:
        return dict, (self.copy(),)

    def __or__(self, other: Mapping[K, V]) -> dict[K, V]:
        return self.copy() | dict(other)

    def __ror__(self, other: Mapping[K, V]) -> dict[K, V]:
        return dict(other) | self.copy()

    def __ior__(self, other: Mapping[K, V] | Iterable[tuple[K, V]]) -> Self:
        self.update(other)
        return self

    def __repr__(self) -> str:
        return f"<Table {self.name} partitions={sorted(self.states)}>"

    tumbling, hopping, using_window = tumbling, hopping, using_window

    @property
    def defers(self) -> bool:
        """True if changes may be deferred (`OpenPartition.defer`): nothing but the values is kept of a write."""
        return type(self) is Table and not self.uncommitted.tracking

    # Partitions -----------------------------------------------------------------------------------------------------

    def new_state(self, store: Store | None = None) -> PartitionState:
        """Return the state of a partition that the table does not show yet.

        Args:
            store: its committed content; None is an empty store in memory.
        """
        return self._make_state(MemoryStore() if store is None else store)

    def _make_state(self, store: Store) -> PartitionState:
        content = StoredContent(store, self.key_codec, self.value_codec, table=self.name)
        return PartitionState(content, self.value_codec, sets=self.sets)

    def add_partition(self, partition: int, state: PartitionState | None = None) -> PartitionState:
        """Add a partition of this worker, so that agents can use it.

        Args:
            state: its state, restored; None is an empty one.
        """
        state = self.states[partition] = self.new_state() if state is None else state
        return state

    def visible_states(self) -> list[PartitionState]:
        """Return the partitions that can be read outside of agents."""
        if self.load is not None:
            load, self.load = self.load, None
            load()
        return list(self.states.values())

    def suspend_others(self, keep: set[int]) -> None:
        """Suspend all partitions but these: their stores stay open, so that one that returns needs no restore."""
        self.uncommitted.drop_epoch()
        for partition in self.states.keys() - keep:
            self._suspended[partition] = self.states.pop(partition)

    def take_suspended(self) -> dict[int, PartitionState]:
        """Return the suspended partitions and forget them; the caller adds them again or closes their stores."""
        suspended, self._suspended = self._suspended, {}
        return suspended

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
    def private(self) -> PrivateFields:
        """The fields that are not shown."""
        topic = self.changelog_topic
        return NOTHING if topic is None else topic.app_private.of(topic.get_topic_name())

    @property
    def changelog_name(self) -> str:
        """Name of the changelog topic."""
        assert self.changelog_topic is not None
        return self.changelog_topic.get_topic_name()
