"""A table is a dict: whatever agents, commits, redos and rebalances do to it, a deliberately dumb twin agrees.

The twin is one plain dict a partition, copied at a commit, at a savepoint, and back. One exception is documented and
kept out of the model: a mutable default that was only looked at and then assigned back as it was may count as not
written; so may one that was changed and, before the commit, changed back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from anabranch.agents.tables.absent import ABSENT
from anabranch.agents.tables.store import Changes
from anabranch.agents.tables.table import Table
from anabranch.topics.errors import Usage
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from table_partitions import PARTITIONS, Basket, Content, Steps, close, decoded, known, made, open_at, stored

TOPICS = ("orders", "refunds")

# Not 1 beside True: to a dict they are one key, to JSON two (`topics/serde.py` says so).
KEYS = ["", "a", "b", "Zürich", "7", 7, -1, 2.5, 3.0, 10**20, ("a", 7), ("a", ("b", 2.0)), True, None]

keys = st.sampled_from(KEYS)
partitions = st.integers(0, PARTITIONS - 1)
topics = st.sampled_from(TOPICS)
words = st.text(max_size=3)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=4,
)


def exactly(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down; only the order of a dict's keys is JSON's (sorted)."""
    if type(left) is not type(right) or left != right:
        return False
    if isinstance(left, list):
        return all(map(exactly, left, right))
    return not isinstance(left, dict) or all(exactly(left[key], right[key]) for key in left)


class TableMachine(RuleBasedStateMachine):
    """One table, one twin. An agent works on the open partition; the engine does what comes between two records."""

    default: Callable[[], Any] | None = None
    value_type: Any = None
    sets = False
    values: st.SearchStrategy[Any] = plain

    def __init__(self) -> None:
        super().__init__()
        self.table = self.made()
        self.committed: Content = {p: {} for p in range(PARTITIONS)}
        self.now: Content = copy.deepcopy(self.committed)
        self.saved: Content = copy.deepcopy(self.committed)
        self.changelog: dict[int, dict[bytes, bytes]] = {p: {} for p in range(PARTITIONS)}
        self.touched: set[tuple[int, Any]] = set()
        self.frozen: tuple[dict[int, Changes], Content] | None = None  # an epoch that is being committed
        self.isolating = self.undoable = self.began = False
        self.topic, self.at = TOPICS[0], 0

    def made(self) -> Table:
        return made(self.default, value_type=self.value_type, sets=self.sets)

    @property
    def twin(self) -> dict[Any, Any]:
        self.settle()
        return self.now[self.at]

    def settle(self) -> None:
        """Where the table is something else than a dict, so is its twin, after each write."""

    def touch(self, *touched: Any) -> None:
        self.touched |= {(self.at, key) for key in touched}
        self.began = True

    def expected(self, key: Any) -> Any:
        if key not in self.twin and self.default is not None:
            return self.default()
        return self.twin[key]

    def both(self, real: Callable[[], Any], dumb: Callable[[], Any]) -> Any:
        """The same answer, or the same kind of refusal."""
        self.began = True
        try:
            want = dumb()
        except KeyError:
            with pytest.raises(KeyError):
                real()
            return None
        got = real()
        assert exactly(got, want), (got, want)
        return got

    # What an agent does.

    @rule(key=keys)
    def reads(self, key: Any) -> None:
        self.both(lambda: self.table[key], lambda: self.expected(key))

    @rule(key=keys, data=st.data())
    def writes(self, key: Any, data: st.DataObject) -> None:
        value = data.draw(self.values)
        self.touch(key)
        self.table[key] = copy.deepcopy(value)
        self.twin[key] = value

    @rule(key=keys, data=st.data())
    def changes_a_value(self, key: Any, data: st.DataObject) -> None:
        self.touch(key)
        self.change(self.table, key, copy.deepcopy(self.expected(key)), data)

    def change(self, table: Table, key: Any, value: Any, data: st.DataObject) -> None:
        """`table[key]` grows by one step, in place where it can; `value` becomes the twin's."""
        raise NotImplementedError

    @rule(key=keys)
    def deletes(self, key: Any) -> None:
        self.touch(key)
        self.both(lambda: self.table.__delitem__(key), lambda: self.twin.__delitem__(key))

    @rule(key=keys)
    def deletes_and_reads_the_default(self, key: Any) -> None:
        self.touch(key)
        self.both(lambda: self.table.pop(key, "nothing"), lambda: self.twin.pop(key, "nothing"))
        self.reads(key)

    @rule(key=keys, fallback=st.booleans())
    def pops(self, key: Any, fallback: bool) -> None:
        self.touch(key)
        default = ["fallback"] if fallback else []
        self.both(lambda: self.table.pop(key, *default), lambda: self.twin.pop(key, *default))

    @rule()
    def pops_any(self) -> None:
        self.began = True
        if not self.twin:
            with pytest.raises(KeyError):
                self.table.popitem()
            return
        key, value = self.table.popitem()
        self.touch(key)
        assert exactly(value, self.twin.pop(key))

    @rule(key=keys, data=st.data())
    def sets_a_default(self, key: Any, data: st.DataObject) -> None:
        value = data.draw(self.values)
        self.touch(key)
        self.both(lambda: self.table.setdefault(key, copy.deepcopy(value)), lambda: self.twin.setdefault(key, value))

    @rule(data=st.data(), how=st.sampled_from(["dict", "pairs", "keywords", "|="]))
    def updates(self, data: st.DataObject, how: str) -> None:
        names = st.sampled_from(["a", "b", "Zürich"]) if how == "keywords" else keys
        new = data.draw(st.dictionaries(names, self.values, max_size=4))
        self.touch(*new)
        given = copy.deepcopy(new)
        match how:
            case "dict":
                self.table.update(given)
            case "pairs":
                self.table.update(list(given.items()))
            case "keywords":
                self.table.update(**given)
            case _:
                self.table |= given
        self.twin.update(new)

    @rule()
    def clears(self) -> None:
        self.touch(*self.twin)
        self.table.clear()
        self.twin.clear()

    @rule(key=keys)
    def asks(self, key: Any) -> None:
        self.both(lambda: key in self.table, lambda: key in self.twin)
        self.both(lambda: self.table.get(key), lambda: self.twin.get(key))
        self.both(lambda: self.table.get(key, "else"), lambda: self.twin.get(key, "else"))

    @rule(many=st.lists(keys, max_size=4))
    def asks_for_many(self, many: list[Any]) -> None:
        twin = self.twin
        self.both(lambda: self.table.opened().get_many(many), lambda: [twin.get(key, ABSENT) for key in many])

    @rule()
    def looks_at_everything(self) -> None:
        table, twin = self.table, self.twin
        self.both(lambda: len(table), lambda: len(twin))
        self.both(lambda: bool(table), lambda: bool(twin))
        self.both(lambda: sorted(table, key=repr) == sorted(table.keys(), key=repr), lambda: True)
        assert set(table) == set(twin)
        assert list(reversed(table)) == list(table)[::-1]
        assert dict(table.items()) == dict(table) == table.copy() == twin
        assert len(table.values()) == len(twin) and all(value in twin.values() for value in table.values())
        assert table == twin
        assert table | {"a": 0} == twin | {"a": 0}
        assert {"a": 0} | table == {"a": 0} | twin
        assert (table != twin) is False

    # What the engine does.

    @initialize()
    def opens(self) -> None:
        open_at(self.table, self.topic, self.at)

    @rule(topic=topics, at=partitions, closed=st.booleans())
    def turns_to_another_partition(self, topic: str, at: int, closed: bool) -> None:
        if self.began and (topic, at) != (self.topic, self.at):
            self.undoable = False
        if closed:
            close(self.table)
        self.topic, self.at = topic, at
        self.opens()

    @rule()
    def marks_a_savepoint(self) -> None:
        self.table.uncommitted.savepoint()
        self.settle()
        self.saved = copy.deepcopy(self.now)
        self.isolating = self.undoable = True
        self.began = False

    @precondition(lambda self: self.undoable)
    @rule()
    def undoes_a_record(self) -> None:
        self.table.uncommitted.discard_writes()
        self.now = copy.deepcopy(self.saved)
        self.began = False

    @rule()
    def redoes_the_epoch(self) -> None:
        close(self.table)
        self.table.uncommitted.drop_epoch()
        self.back_to_the_commit()

    @rule(keep=st.sets(partitions), returns=st.booleans())
    def loses_partitions(self, keep: set[int], returns: bool) -> None:
        close(self.table)
        self.table.suspend_others(keep)
        gone = self.table.take_suspended()
        self.back_to_the_commit()
        if self.at not in keep:
            with pytest.raises(Usage):
                self.table["a"]  # an agent is resumed before its partition has come back
        for partition in set(range(PARTITIONS)) - keep:
            self.table.add_partition(partition, gone[partition] if returns else None)
            if not returns:  # restored from the changelog
                data, store = self.changelog[partition], self.table.states[partition].store
                store.apply(Changes(list(data), list(data.values()), deletes=False), len(data))
        self.opens()

    @rule()
    def dies_and_comes_back(self) -> None:
        self.table = self.made()
        for partition, data in self.changelog.items():
            self.table.states[partition].store.apply(Changes(list(data), list(data.values()), deletes=False), len(data))
        self.isolating = False
        self.back_to_the_commit()

    def back_to_the_commit(self) -> None:
        self.frozen = None
        self.now = copy.deepcopy(self.committed)
        self.touched.clear()
        self.undoable = False
        self.opens()

    @precondition(lambda self: self.frozen is None)
    @rule(succeeds=st.booleans(), later=st.booleans())
    def commits(self, succeeds: bool, later: bool) -> None:
        """An epoch is committed, or begins to be: the next one may fill meanwhile."""
        self.table.close()
        self.settle()
        changes = self.table.uncommitted.encode_epoch(known)
        assert changes == self.table.uncommitted.encode_epoch(known)
        if not succeeds and not later:
            self.redoes_the_epoch()
            return
        for partition, change in changes.items():
            assert len(change), "an empty change has no last record to report a position"
            assert change.deletes == (None in change.values)
            assert len(set(change.keys)) == len(change.keys)
            decode = self.table.key_codec.decode
            assert {(partition, decode(key)) for key in change.keys} <= self.touched
        self.table.uncommitted.freeze_epoch(changes)
        self.frozen = changes, copy.deepcopy(self.now)
        self.touched.clear()
        self.undoable = False
        if not later:
            self.ends_a_commit(succeeds=True, trusted=False)
        self.opens()

    @precondition(lambda self: self.frozen is not None)
    @rule(succeeds=st.booleans(), trusted=st.booleans())
    def ends_a_commit(self, succeeds: bool, trusted: bool) -> None:
        assert self.frozen is not None
        if not succeeds:
            self.redoes_the_epoch()
            return
        (changes, content), self.frozen = self.frozen, None
        for partition, change in changes.items():
            for key, value in zip(change.keys, change.values, strict=True):
                if value is None:
                    self.changelog[partition].pop(key, None)
                else:
                    self.changelog[partition][key] = value
        self.table.uncommitted.epoch_committed(dict.fromkeys(changes, 77))
        assert all(self.table.states[p].store.position == 77 for p in changes)
        self.committed = content
        for partition, data in self.changelog.items():
            assert exactly_equal_content(decoded(self.table, data), content[partition])
        for partition, kept in stored(self.table).items():
            assert exactly_equal_content(kept, content[partition])
        if trusted and not self.undoable:
            self.table.uncommitted.end_savepoints()
            self.isolating = False

    @invariant()
    def outside_shows_what_is_committed(self) -> None:
        close(self.table)
        table = self.table
        assert table.opened() is None
        # A key may be in several partitions here, which only a wrong partitioner makes happen: any of them is right.
        every = [(key, value) for content in self.committed.values() for key, value in content.items()]
        assert set(table) == {key for key, _ in every}
        assert all((key, value) in every for key, value in table.items())
        assert all((key in table) == any(key == k for k, _ in every) for key in KEYS[:4])
        self.opens()


def exactly_equal_content(left: dict[Any, Any], right: dict[Any, Any]) -> bool:
    # Keys by equality only: 3.0 is kept as 3.
    return left.keys() == right.keys() and all(exactly(left[key], right[key]) for key in left)


class Numbers(TableMachine):
    default = int
    values = st.integers()

    def change(self, table: Table, key: Any, value: Any, data: st.DataObject) -> None:
        step = data.draw(st.integers(-3, 3))
        table[key] += step
        self.twin[key] = value + step

    @rule(steps=st.dictionaries(keys, st.integers(-3, 3), min_size=1, max_size=4))
    def lets_changes_wait(self, steps: dict[Any, int]) -> None:
        self.undoable = False  # whoever goes record by record lets nothing wait
        self.touch(*steps)
        waiting = self.table.at_hand().pending.get(self.topic)
        if isinstance(waiting, Steps):
            waiting.found.append(steps)
        else:
            self.table.at_hand().defer(self.topic, Steps([steps]))
        for key, step in steps.items():
            self.twin[key] = self.twin.get(key, 0) + step


class Lists(TableMachine):
    default = list
    values = st.lists(plain, max_size=3)

    def change(self, table: Table, key: Any, value: Any, data: st.DataObject) -> None:
        item = data.draw(plain)
        table[key].append(copy.deepcopy(item))
        self.twin[key] = [*value, item]


class Dicts(TableMachine):
    default = dict
    values = st.dictionaries(words, st.integers(), max_size=3)

    def change(self, table: Table, key: Any, value: Any, data: st.DataObject) -> None:
        name, step = data.draw(words), data.draw(st.integers(1, 3))
        table[key][name] = table[key].get(name, 0) + step
        self.twin[key] = {**value, name: value.get(name, 0) + step}


class Structs(TableMachine):
    default = Basket
    values = st.builds(Basket, st.lists(words, max_size=2), st.integers(0, 9))

    def change(self, table: Table, key: Any, value: Any, data: st.DataObject) -> None:
        item = data.draw(words)
        basket = table[key]
        basket.items.append(item)
        basket.total += 1
        self.twin[key] = Basket([*value.items, item], value.total + 1)


class Anything(TableMachine):
    """No default: a missing key is a KeyError, and values are whatever JSON holds."""

    @precondition(lambda self: bool(self.twin))
    @rule(data=st.data())
    def changes_a_value(self, data: st.DataObject) -> None:  # type: ignore[override]
        key = data.draw(st.sampled_from(list(self.twin)))
        self.touch(key)
        value = self.table[key]
        if isinstance(value, list):
            value.append("more")
            self.twin[key].append("more")
        elif isinstance(value, dict):
            value["more"] = [len(value)]
            self.twin[key]["more"] = [len(self.twin[key])]
        else:
            self.table[key] = [value]
            self.twin[key] = [self.twin[key]]


class ListsByNumber(Lists):
    """A declared type whose keys JSON does not have."""

    default = dict
    value_type = dict[int, list[float]]
    values = st.dictionaries(st.integers(0, 3), st.lists(st.floats(allow_nan=False, allow_infinity=False)), max_size=3)

    def change(self, table: Table, key: Any, value: Any, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, 3))
        table[key].setdefault(number, []).append(0.5)
        self.twin[key] = {**value, number: [*value.get(number, []), 0.5]}


class Sets(TableMachine):
    """Elements are as undeclared keys; an empty set is no key."""

    default = set
    sets = True
    values = st.sets(st.sampled_from(KEYS[:12]), max_size=3)

    def settle(self) -> None:
        for content in self.now.values():
            for key in [key for key, value in content.items() if not value]:
                del content[key]

    def change(self, table: Table, key: Any, value: Any, data: st.DataObject) -> None:
        some = data.draw(self.values)
        how = data.draw(st.sampled_from(["update", "difference_update", "symmetric_difference_update", "clear"]))
        for found in (table[key], value):
            getattr(found, how)(*([] if how == "clear" else [some]))
        self.twin[key] = value


class SetsOfNumbers(Sets):
    value_type = int
    values = st.sets(st.integers(0, 20), max_size=3)


QUICK = settings(max_examples=30, stateful_step_count=30, deadline=None)

TestATableOfNumbersIsADict = Numbers.TestCase
TestATableOfListsIsADict = Lists.TestCase
TestATableOfDictsIsADict = Dicts.TestCase
TestATableOfStructsIsADict = Structs.TestCase
TestATableOfAnythingIsADict = Anything.TestCase
TestATableOfADeclaredGenericIsADict = ListsByNumber.TestCase
TestATableOfSetsIsADictWithoutEmptySets = Sets.TestCase
TestATableOfSetsOfADeclaredTypeIsToo = SetsOfNumbers.TestCase
for case in (Numbers, Lists, Dicts, Structs, Anything, ListsByNumber, Sets, SetsOfNumbers):
    case.TestCase.settings = QUICK
