"""Tables: keyed state of agents, used as dicts and restored from changelogs in Kafka.

To an agent a table is a dict: `totals[user] += amount`. The table object is a real dict of the uncommitted writes, so
reading and writing a key that it holds runs at C speed; only the first read of a key reads the layers below
(`partition_state.py`).

Invariants.
- A table is *open* while an agent runs, and then shows the partition of the agent's record. The engine opens it before
  it resumes an agent and closes it when the agent suspends.
- A closed table (in timers, web views, other tasks) shows the committed state of all local partitions and refuses
  writes.
- Nothing leaves the process before the barrier; there the last value of each changed key goes to the changelog.
- A table and its agents share no value beyond a record; see `TrackingTable`.

Open and closed tables are one object with two classes: `__class__` is switched (0.06 µs a switch), because a dict
subclass that overrides `__getitem__` or `__setitem__` in Python loses C speed, even if the override does nothing. A
third class, `PendingTable`, is for an open partition with pending changes: applying the results of each batch key by
key would touch most keys again and again, so they wait (`UncommittedWrites.defer`) until the table is next used, or
until the barrier. The agent sees no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, KeysView, Mapping, Sequence
from copy import deepcopy
from itertools import repeat
from typing import Any, ClassVar, NoReturn, Self, SupportsIndex, TypeVar, overload

from ...topics.errors import BadRecord
from ..running_agent import RUNNING_AGENT
from .partition_state import ABSENT, UNTOUCHED, Absent, PartitionState
from .uncommitted_writes import K, UncommittedWrites, V
from .value_cache import IMMUTABLE

__all__ = ["ClosedTable", "PendingTable", "Table", "TrackingTable"]

T = TypeVar("T")


class Table(UncommittedWrites[K, V]):
    """A table of an app, while it is open; make one with `app.Table`.

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

    Attributes:
        fast_classes: classes whose `get_many` may read the dict directly.
    """

    fast_classes: ClassVar[set[type[Table]]] = set()

    def _deeper(self, key: K) -> V:
        state = self._need_state()
        value = ABSENT if key in self._deleted else state.epoch.get(key, UNTOUCHED)
        if value is UNTOUCHED:
            value = state.committed(key)
            if value is not ABSENT:
                if type(value) in IMMUTABLE:
                    state.add_to_cache(key, value)
                else:
                    state.keep_original(key, value, existed=True)
                    self._track(key, value)
                return value
        elif value is not ABSENT:
            if type(value) in IMMUTABLE:
                return value
            # Between savepoints, a default that an earlier record only read is no key: this record gets one of its own.
            if not self._in_savepoints or state.exists(key, value):
                value = state.private_copy(key, value) if self._in_savepoints else value
                self._track(key, value)
                return value
        if self.default is None:
            raise KeyError(key)
        value = self.default()
        if type(value) not in IMMUTABLE:
            state.keep_original(key, value, existed=False)
            self._track(key, value)
        return value

    def _track(self, key: K, value: V) -> None:
        """Track a mutable value that an agent is given."""
        if not self.tracking:
            self._start_tracking()
            self.__class__ = self.open_class  # pyright: ignore[reportAttributeAccessIssue]
        dict.__setitem__(self, key, value)
        self._tracked.append((self, self._need_state(), key, value))

    def put(self, changes: dict[K, V]) -> None:
        """Write values that no agent holds, such as the results of a flow."""
        if not self.tracking:
            self._put.update(changes)
        dict.update(self, changes)

    def _need_state(self) -> PartitionState:
        if self._state is None:
            raise self._no_partition()
        return self._state

    def _below(self, key: object) -> V | Absent:
        """Return the value below the uncommitted writes; ABSENT if there is none."""
        if key in self._deleted:
            return ABSENT
        state = self._need_state()
        for layer in (state.cache, state.epoch):
            if key in layer:
                return layer[key]
        return state.committed(key)

    def _find(self, key: object) -> V | Absent:
        """Return the value as agents see it; ABSENT if there is none or if it is a default that was only read."""
        state = self._need_state()
        value = dict.get(self, key, ABSENT)
        if value is ABSENT:
            value = self._below(key)
        return value if value is not ABSENT and state.exists(key, value) else ABSENT

    def get_many(self, keys: Sequence[K]) -> list[V | Absent]:
        """Return the value of each key, ABSENT where there is none; several times faster than one by one.

        The caller must not change the values in place; for that, read them with `[]`.
        """
        state = self._need_state()
        if type(self) not in self.fast_classes or self._deleted or self._in_savepoints or state.originals or self.sets:
            return list(map(self._find, keys))
        cached = state.cache.get
        found: list[V | Absent]
        if dict.__len__(self) > 1:
            own = super().get
            found = [cached(key, ABSENT) if (value := own(key, ABSENT)) is ABSENT else value for key in keys]
        else:
            found = list(map(cached, keys, repeat(ABSENT)))
        absent = [index for index, value in enumerate(found) if value is ABSENT]
        below = state.get_uncached([keys[index] for index in absent]) if absent else []
        for index, value in zip(absent, below, strict=True):
            found[index] = value
        return found

    def __contains__(self, key: object) -> bool:
        return self._find(key) is not ABSENT

    @overload
    def get(self, key: K, default: None = None) -> V | None: ...

    @overload
    def get(self, key: K, default: T) -> V | T: ...

    def get(self, key: K, default: object = None) -> object:
        """Return the value of a key, else `default`, as `dict.get` does; the table's own default is not used."""
        return self[key] if key in self else default  # noqa: SIM401 (this is `get`)

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self._delete(key)

    @overload
    def pop(self, key: K, /) -> V: ...

    @overload
    def pop(self, key: K, default: T, /) -> V | T: ...

    def pop(self, key: K, *default: object) -> object:
        """Remove a key and return its value, as `dict.pop` does."""
        if key in self:
            value = self[key]
            del self[key]
            return value
        self._forget_default(key)
        if default:
            return default[0]
        raise KeyError(key)

    def _forget_default(self, key: object) -> None:
        """Forget a default that the agent was given, so that its later changes to it do not reach the table."""
        value = dict.get(self, key, ABSENT)
        original = None if value is ABSENT else self._need_state().originals.get((key, id(value)))
        if original is not None and not original[2]:
            dict.pop(self, key)

    def popitem(self) -> tuple[K, V]:
        """Remove an arbitrary pair and return it.

        Raises:
            KeyError: the partition is empty.
        """
        for key in self:
            return key, self.pop(key)
        raise KeyError("popitem(): table is empty")

    @overload
    def setdefault(self: Table[K, T | None], key: K, default: None = None) -> T | None: ...

    @overload
    def setdefault(self, key: K, default: V) -> V: ...

    def setdefault(self, key: K, default: Any = None) -> object:
        """Return the value of a key; insert `default` if the key does not exist, as `dict.setdefault` does."""
        if key not in self:
            self[key] = default
        return self[key]

    def clear(self) -> None:
        """Delete every key of this partition."""
        for key in list(self):
            del self[key]

    def _merged(self) -> dict[K, V]:
        """Return all pairs that this view of the table shows."""
        state = self._need_state()
        merged = dict(state.committed_items())
        merged.update(state.epoch)
        for key in self._deleted:
            merged[key] = ABSENT
        merged.update(self.writes())
        present = {key: value for key, value in merged.items() if state.exists(key, value)}
        if set(map(type, present)) <= self.key_codec.trusted:
            return present
        return {self._as_kept(key): value for key, value in present.items()}

    def _as_kept(self, key: K) -> K:
        """Return a key as it will be read back after the commit, so that it looks the same before."""
        try:
            return self.key_codec.decode(self.key_codec.keep(key))
        except BadRecord:
            return key

    def __iter__(self) -> Iterator[K]:
        return iter(self._merged())

    def __len__(self) -> int:
        return len(self._merged())

    def __bool__(self) -> bool:
        return len(self) > 0

    def keys(self) -> KeysView[K]:
        """Return a snapshot of the keys of this partition."""
        return self._merged().keys()

    def values(self) -> Collection[V]:
        """Return a snapshot of the values of this partition."""
        return [self[key] for key in self]

    def items(self) -> Collection[tuple[K, V]]:
        """Return a snapshot of the pairs of this partition."""
        return [(key, self[key]) for key in self]

    def copy(self) -> dict[K, V]:
        """Return a plain dict of the same pairs."""
        return dict(self.items())

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, dict) and dict(self.items()) == other)

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return object.__hash__(self)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, object]) -> dict[K, V]:
        return deepcopy(self.copy(), memo)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[type[dict[K, V]], tuple[dict[K, V]]]:
        return dict, (self.copy(),)

    def __or__(self, other: Mapping[K, V]) -> dict[K, V]:
        return self.copy() | dict(other)

    def __ior__(self, other: Mapping[K, V] | Iterable[tuple[K, V]]) -> Self:
        self.update(other)
        return self

    def __reversed__(self) -> Iterator[K]:
        return reversed(list(self))

    def __repr__(self) -> str:
        return f"<Table {self.name} partition={self._partition}>"

    # An error is better than windows that are never closed.
    def _no_windows(self, *_: object, **__: object) -> NoReturn:
        raise NotImplementedError("windowed tables are not supported yet: put the start of the window into the key")

    tumbling = hopping = using_window = _no_windows


class TrackingTable(Table[K, V]):
    """An open table that tracks which of its mutable values (lists, dicts, structs, …) an agent holds.

    Invariant. Within a record, tables are plain Python: a value that an agent has read or written is the object in the
    table, so `table[key].append(x)` changes the table, and one object may be at two keys or in two tables. When the
    record ends (the agent requests the next one; for batches and `take`, for the next batch), each of these places gets
    an equal value that shares nothing with the agent, with other keys or with other tables. A commit has the same
    effect, because a value that is read from a changelog shares nothing; so agents cannot see where commits fall.

    A default that was only read is no key when the record ends. A default that was changed or assigned is a key from
    then on, whatever its value becomes.

    Mechanism. Values that `[]` returns or `[]=` receives are tracked, and `end_record` replaces each by the value that
    its bytes decode to. The bytes are compared first: a value that was only read is neither replaced nor written.
    Numbers and text cannot be changed, so a table that holds nothing else needs no tracking: it stays a `Table`, at the
    speed of a dict. The default or the declared type decides which of the two a table is. If they do not, it begins as
    a `Table` and starts tracking when it is first found to hold a mutable value; if an agent holds one by then, the
    epoch is rolled back and reprocessed (`untracked`).
    """

    __hash__ = Table.__hash__

    def __getitem__(self, key: K) -> V:
        value = dict.__getitem__(self, key)
        if type(value) not in IMMUTABLE and self._state is not None:
            self._tracked.append((self, self._state, key, value))
        return value

    def __setitem__(self, key: K, value: V) -> None:
        dict.__setitem__(self, key, value)
        if type(value) not in IMMUTABLE:
            self._track_written(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Write many pairs, as `dict.update` does."""
        new: Any = dict(*args, **kwargs)
        dict.update(self, new)
        if not IMMUTABLE.issuperset(map(type, new.values())):
            for key, value in new.items():
                if type(value) not in IMMUTABLE:
                    self._track_written(key, value)

    def _track_written(self, key: K, value: V) -> None:
        """Track a mutable value that an agent has written."""
        state = self._state
        if state is not None:
            state.originals.pop((key, id(value)), None)  # the value counts as changed, even if it equals the original
            self._tracked.append((self, state, key, value))


class ClosedTable(Table[K, V]):
    """A table outside of agents: the committed state of all local partitions, read-only."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        agent = RUNNING_AGENT.get()
        if agent is not None:
            raise BadRecord(
                f"table {self.name}: cannot be modified by a task that agent {agent} has started (asyncio.gather, "
                "create_task): a table is open to the agent's own coroutine only",
                hint="return the result from the task and write it to the table in the agent",
            )
        raise BadRecord(
            f"table {self.name}: cannot modify a table outside of an agent",
            hint="send a record to an agent that modifies it; timers and web views can only read",
        )

    def __getitem__(self, key: K) -> V:
        value = self._find(key)
        if value is not ABSENT:
            return value
        if self.default is None:
            raise KeyError(key)
        return self.default()

    def _find(self, key: object) -> V | Absent:
        for state in self.states.values():
            value = state.committed(key)
            if value is not ABSENT:
                return value
        return ABSENT

    def _merged(self) -> dict[K, V]:
        return {key: value for state in self.states.values() for key, value in state.committed_items()}

    def items(self) -> Collection[tuple[K, V]]:
        """Return a snapshot of the committed pairs of all local partitions."""
        return self._merged().items()

    def values(self) -> Collection[V]:
        """Return a snapshot of the committed values of all local partitions."""
        return self._merged().values()

    def __repr__(self) -> str:
        return f"<Table {self.name} partitions={sorted(self.states)}>"

    __setitem__ = __delitem__ = put = pop = popitem = setdefault = clear = update = __ior__ = _refuse  # pyright: ignore[reportAssignmentType]


class PendingTable(Table[K, V]):
    """An open table whose partition has pending changes; each method applies them first."""

    __hash__ = Table.__hash__


def _apply_pending_first(name: str) -> Callable[..., object]:
    def method(table: Table, *args: object, **kwargs: object) -> object:
        table.apply_pending()  # switches the class back to `open_class`
        return getattr(table, name)(*args, **kwargs)

    return method


_READS = (
    *("__getitem__", "__contains__", "__iter__", "__reversed__", "__len__", "__bool__", "__eq__", "__ne__", "__or__"),
    *("__ror__", "get", "keys", "values", "items", "copy", "get_many", "__copy__", "__deepcopy__", "__reduce_ex__"),
)
_WRITES = ("__setitem__", "__delitem__", "__ior__", "pop", "popitem", "setdefault", "update", "clear", "put")
for _name in (*_READS, *_WRITES):
    setattr(PendingTable, _name, _apply_pending_first(_name))

Table.open_class, Table.closed_class = Table, ClosedTable
Table.pending_class, Table.tracking_class = PendingTable, TrackingTable
Table.fast_classes |= {Table, TrackingTable}
