"""Tables: what agents hold between records, as dicts that Kafka remembers.

To an agent a table is a dict: `totals[user] += amount`. The table object itself is the overlay, a real dict, so reading
and writing a key that this epoch has touched runs at C speed; only a key's first read goes further down (`state.py`).

Laws.
- A table is *open* while an agent runs, and then shows the partition of the record the agent works on. The engine opens
  it before it resumes an agent and closes it when the agent suspends.
- A closed table (timers, HTTP, other tasks) shows the committed state of all local partitions and refuses writes.
- Nothing leaves the process before the gate; there the last value of each changed key goes to the changelog.
- A table and its agents share no value beyond a record: see `PrivateTable`.

Open and closed are two classes of one object: `__class__` is switched (0.06 µs a switch), because a dict subclass that
overrides `__getitem__` or `__setitem__` in Python loses C speed even for an override that does nothing. A third is for
an open partition that changes are waiting for: to fold what batches amount to into it one by one would touch most of
its keys again and again, so they wait (`UncommittedWrites.wait`) until somebody looks, at the barrier at the latest.
Who looks cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, KeysView, Mapping, Sequence
from copy import deepcopy
from itertools import repeat
from typing import Any, ClassVar, NoReturn, Self, SupportsIndex, TypeVar, overload

from ...topics.errors import BadRecord
from ..running_agent import RUNNING_AGENT
from .partition_state import ABSENT, IMMUTABLE, UNTOUCHED, Absent, PartitionState
from .uncommitted_writes import K, UncommittedWrites, V

__all__ = ["ClosedTable", "PrivateTable", "Table", "UnsettledTable"]

T = TypeVar("T")


class Table(UncommittedWrites[K, V]):
    """A table, while it is open; see the module's laws.

    Args:
        name: unique in the app; the changelog is `<app id>-<name>-changelog`.
        default: makes the value of a key that is not there; None means KeyError.
        partitions: of the changelog; None takes that of the topics the app reads.
        key_type, value_type: see `anabranch.topics.serde`; without them keys and values are JSON as it comes.
        help: shown in lists.
        config: topic configuration of the changelog, under Kafka's names.
        store: `memory`, or `rocksdb` for a table on disk.
        sets: values are sets, and `value_type` is that of their elements. A key whose set is empty is not there, so
            that adding to a set and taking away again leaves the same table wherever a commit fell in between.
        local: content is meant to be by partition: the same key may be in several, and results say in which.

    Attributes:
        fast: classes that are asked for many keys at once.
    """

    fast: ClassVar[set[type[Table]]] = set()

    def _deeper(self, key: K) -> V:
        state = self._need_state()
        value = ABSENT if key in self._deleted else state.epoch.get(key, UNTOUCHED)
        if value is UNTOUCHED:
            value = state.committed(key)
            if value is not ABSENT:
                if type(value) in IMMUTABLE:
                    state.remember(key, value)
                else:
                    state.borrow(key, value, existed=True)
                    self._hand(key, value)
                return value
        elif value is not ABSENT:
            if type(value) in IMMUTABLE:
                return value
            # In savepoint mode, a default that an earlier record only looked at is none: this one gets its own.
            if not self._copying or state.live(key, value):
                value = state.private_copy(key, value) if self._copying else value
                self._hand(key, value)
                return value
        if self.default is None:
            raise KeyError(key)
        value = self.default()
        if type(value) not in IMMUTABLE:
            state.borrow(key, value, existed=False)
            self._hand(key, value)
        return value

    def _hand(self, key: K, value: V) -> None:
        """An agent gets a value that it can change in place."""
        if not self.watched:
            self._watch()
            self.__class__ = self.opened  # pyright: ignore[reportAttributeAccessIssue]
        dict.__setitem__(self, key, value)
        self._handed.append((self, self._need_state(), key, value))

    def put(self, changes: dict[K, V]) -> None:
        """Write values that nobody else has, as flows make them."""
        if not self.watched:
            self._put.update(changes)
        dict.update(self, changes)

    def _need_state(self) -> PartitionState:
        if self._state is None:
            raise self._no_partition()
        return self._state

    def _below(self, key: object) -> V | Absent:
        """What lies under the overlay, ABSENT if nothing does."""
        if key in self._deleted:
            return ABSENT
        state = self._need_state()
        for closer in (state.view, state.epoch):
            if key in closer:
                return closer[key]
        return state.committed(key)

    def _find(self, key: object) -> V | Absent:
        """The value as agents see it, ABSENT if there is none; an untouched default that was only read is none."""
        state = self._need_state()
        value = dict.get(self, key, ABSENT)
        if value is ABSENT:
            value = self._below(key)
        return value if value is not ABSENT and state.live(key, value) else ABSENT

    def known(self, keys: Sequence[K]) -> list[V | Absent]:
        """What is there at each of many keys, ABSENT where nothing is; several times faster than asking one by one.

        For looking only: what would be changed in place has to be read by `[]`.
        """
        state = self._need_state()
        if type(self) not in self.fast or self._deleted or self._copying or state.borrowed or self.sets:
            return list(map(self._find, keys))
        view = state.view.get
        found: list[V | Absent]
        if dict.__len__(self) > 1:
            own = super().get
            found = [view(key, ABSENT) if (value := own(key, ABSENT)) is ABSENT else value for key in keys]
        else:
            found = list(map(view, keys, repeat(ABSENT)))
        places = [place for place, value in enumerate(found) if value is ABSENT]
        below = state.below_view([keys[place] for place in places]) if places else []
        for place, value in zip(places, below, strict=True):
            found[place] = value
        return found

    def __contains__(self, key: object) -> bool:
        return self._find(key) is not ABSENT

    @overload
    def get(self, key: K, default: None = None) -> V | None: ...

    @overload
    def get(self, key: K, default: T) -> V | T: ...

    def get(self, key: K, default: object = None) -> object:
        """As dict.get: the table's own default is not used."""
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
        """As dict.pop."""
        if key in self:
            value = self[key]
            del self[key]
            return value
        self._forget_default(key)
        if default:
            return default[0]
        raise KeyError(key)

    def _forget_default(self, key: object) -> None:
        """What an agent does from now on to a default that it was given is nothing to the table."""
        value = dict.get(self, key, ABSENT)
        borrowed = None if value is ABSENT else self._need_state().borrowed.get((key, id(value)))
        if borrowed is not None and not borrowed[2]:
            dict.pop(self, key)

    def popitem(self) -> tuple[K, V]:
        """Remove some pair; which one is not defined."""
        for key in self:
            return key, self.pop(key)
        raise KeyError("popitem(): table is empty")

    @overload
    def setdefault(self: Table[K, T | None], key: K, default: None = None) -> T | None: ...

    @overload
    def setdefault(self, key: K, default: V) -> V: ...

    def setdefault(self, key: K, default: Any = None) -> object:
        """As dict.setdefault."""
        if key not in self:
            self[key] = default
        return self[key]

    def clear(self) -> None:
        """Delete every key of this partition."""
        for key in list(self):
            del self[key]

    def _merged(self) -> dict[K, V]:
        state = self._need_state()
        seen = dict(state.committed_items())
        seen.update(state.epoch)
        for key in self._deleted:
            seen[key] = ABSENT
        seen.update(self.fresh())
        live = {key: value for key, value in seen.items() if state.live(key, value)}
        if set(map(type, live)) <= self.key_codec.trusted:
            return live
        return {self._as_kept(key): value for key, value in live.items()}

    def _as_kept(self, key: K) -> K:
        """A key as it comes back after the commit, so that it looks the same before."""
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
        """Keys of this partition, as a snapshot."""
        return self._merged().keys()

    def values(self) -> Collection[V]:
        """Values of this partition, as a snapshot."""
        return [self[key] for key in self]

    def items(self) -> Collection[tuple[K, V]]:
        """Pairs of this partition, as a snapshot."""
        return [(key, self[key]) for key in self]

    def copy(self) -> dict[K, V]:
        """A plain dict of the same pairs."""
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

    # Faust's windows come with their own clock in a later step of work; an error now beats data that is never closed.
    def _no_windows(self, *_: object, **__: object) -> NoReturn:
        raise NotImplementedError("windowed tables are not there yet: keep the window's start in the key")

    tumbling = hopping = using_window = _no_windows


class PrivateTable(Table[K, V]):
    """An open table that notes which values an agent has that can be changed in place: lists, dicts, structs, ….

    Law. Within a record, tables are plain Python: what an agent has read or written is the object in the table, so
    `table[key].append(x)` changes the table, and one object may stand at two keys or in two tables. When the record
    ends (the agent asks for the next one; of a batch or a `take`, the next batch), each of these places goes on with an
    equal value that shares nothing with the agent, with other keys or other tables. That is what a commit does to them
    anyway, because what comes back from a changelog shares nothing; so it cannot be seen where commits fall.

    A default that was only looked at is no key when the record ends. One that was changed or assigned is a key from
    then on, whatever becomes of its value.

    How. What is handed out by `[]` and given by `[]=` is noted, and `end_record` replaces what was noted by what comes
    back from its bytes. These are compared first: what was only looked at is neither replaced nor written. Numbers and
    texts cannot be changed, and a table that holds nothing else needs none of this: it stays a `Table`, at the speed of
    a dict. Which of the two a table is follows from its default or its declared type. Where these do not tell, it
    begins as a `Table`; when it is first found to hold such a value it turns into one that notes, and if an agent has
    had one by then, the epoch is done again (`late`).
    """

    __hash__ = Table.__hash__

    def __getitem__(self, key: K) -> V:
        value = dict.__getitem__(self, key)
        if type(value) not in IMMUTABLE and self._state is not None:
            self._handed.append((self, self._state, key, value))
        return value

    def __setitem__(self, key: K, value: V) -> None:
        dict.__setitem__(self, key, value)
        if type(value) not in IMMUTABLE:
            self._note(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As dict.update."""
        new: Any = dict(*args, **kwargs)
        dict.update(self, new)
        if not IMMUTABLE.issuperset(map(type, new.values())):
            for key, value in new.items():
                if type(value) not in IMMUTABLE:
                    self._note(key, value)

    def _note(self, key: K, value: V) -> None:
        """An agent has written this."""
        state = self._state
        if state is not None:
            state.borrowed.pop((key, id(value)), None)  # it counts as written, whatever it was
            self._handed.append((self, state, key, value))


class ClosedTable(Table[K, V]):
    """A table seen from outside an agent: committed state of all local partitions, read only."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        agent = RUNNING_AGENT.get()
        if agent is not None:
            raise BadRecord(
                f"table {self.name}: cannot be modified by a task that agent {agent} has started (asyncio.gather, "
                "create_task): a table is open to the agent's own coroutine alone",
                hint="let the task return what it has found, and write it to the table in the agent",
            )
        raise BadRecord(
            f"table {self.name}: cannot modify a table outside of an agent",
            hint="send a record to an agent that does it; timers and web views can only read",
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
        """All committed pairs of local partitions, as a snapshot."""
        return self._merged().items()

    def values(self) -> Collection[V]:
        """All committed values of local partitions, as a snapshot."""
        return self._merged().values()

    def __repr__(self) -> str:
        return f"<Table {self.name} partitions={sorted(self.states)}>"

    __setitem__ = __delitem__ = put = pop = popitem = setdefault = clear = update = __ior__ = _refuse  # pyright: ignore[reportAssignmentType]


class UnsettledTable(Table[K, V]):
    """An open table at whose partition something waits; whatever it is asked for, it settles that first."""

    __hash__ = Table.__hash__


def _settled_first(name: str) -> Callable[..., object]:
    def method(table: Table, *args: object, **kwargs: object) -> object:
        table.settle()  # it is a `Table` from here on
        return getattr(table, name)(*args, **kwargs)

    return method


_LOOKING = (
    *("__getitem__", "__contains__", "__iter__", "__reversed__", "__len__", "__bool__", "__eq__", "__ne__", "__or__"),
    *("__ror__", "get", "keys", "values", "items", "copy", "known", "__copy__", "__deepcopy__", "__reduce_ex__"),
)
_CHANGING = ("__setitem__", "__delitem__", "__ior__", "pop", "popitem", "setdefault", "update", "clear", "put")
for _name in (*_LOOKING, *_CHANGING):
    setattr(UnsettledTable, _name, _settled_first(_name))

Table.opened, Table.closed, Table.unsettled, Table.private = Table, ClosedTable, UnsettledTable, PrivateTable
Table.fast |= {Table, PrivateTable}
