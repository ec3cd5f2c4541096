"""Values that can be changed in place: an agent's own from the end of its record on, wherever commits fall.

The twin is a dict whose values are copied when a record ends; it has never heard of commits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from anabranch.agents.tables.global_table import GlobalTable
from anabranch.agents.tables.open_partition import end_record
from anabranch.agents.tables.table import Table
from anabranch.agents.tables.ttl_table import TtlTable
from hypothesis import example, given, settings
from hypothesis import strategies as st
from table_partitions import Basket, close, known, made, open_at, stored

KEYS = "abc"
NONE: Any = object()


class Twin:
    """A table, said as simply as can be.

    Attributes:
        looked: defaults that this record has been given and not assigned.
    """

    def __init__(self, default: Callable[[], Any] | None, *, sets: bool) -> None:
        self.default, self.sets = default, sets
        self.content: dict[str, Any] = {}
        self.looked: dict[str, Any] = {}

    def there(self) -> dict[str, Any]:
        changed = {key: value for key, value in self.looked.items() if value != self.default()}
        return {key: value for key, value in (self.content | changed).items() if not (self.sets and not value)}

    def get(self, key: str) -> Any:
        if key in self.content and not (self.sets and not self.content[key]):
            return self.content[key]
        if self.default is None:
            return NONE
        return self.looked.setdefault(
            key, self.content.pop(key, None) if self.sets and key in self.content else self.default()
        )

    def put(self, key: str, value: Any) -> None:
        self.looked.pop(key, None)
        self.content[key] = value

    def pop(self, key: str) -> None:
        self.looked.pop(key, None)
        self.content.pop(key, None)

    def end_record(self) -> None:
        self.content = {key: copy.deepcopy(value) for key, value in self.there().items()}
        self.looked = {}


def change(value: Any, number: int) -> None:
    """One step in place, back or forth."""
    if isinstance(value, list):
        value.pop() if number % 3 == 0 and value else value.append(number)
    elif isinstance(value, dict):
        inner = value.setdefault("inner", []) if number % 5 == 4 else value
        if inner is not value:
            inner.append(number)
        elif value.pop(str(number % 2), None) is None:
            value[str(number % 2)] = number
    elif isinstance(value, set):
        value ^= {number % 3}
    elif isinstance(value, Basket):
        value.items.pop() if number % 3 == 0 and value.items else value.items.append(str(number))


def literal(kind: Any, number: int) -> Any:
    made = kind()
    for step in range(number % 3):
        change(made, number + step)
    return made


Op = tuple[str, int, str, int, int]
ops = st.tuples(
    st.sampled_from(
        ["read", "change", "change held", "write", "write held", "delete", "pop", "ask", "setdefault", "update"]
    ),
    st.integers(0, 1),
    st.sampled_from(KEYS),
    st.integers(0, 2),
    st.integers(0, 9),
)
programs = st.lists(st.lists(ops, min_size=1, max_size=5), min_size=1, max_size=8)


class Agent:
    """Two tables, their twins, and variables that an agent keeps from record to record."""

    def __init__(self, make: Callable[[], Table], kind: Any, default: Any, *, sets: bool = False) -> None:
        self.kind, self.sets = kind, sets
        self.tables = [make(), make()]
        self.twins = [Twin(default, sets=sets) for _ in range(2)]
        self.held: list[Any] = [NONE] * 3
        self.twins_held: list[Any] = [NONE] * 3
        self.handed: list[Any] = []
        self.wrong: list[Any] = []  # what an epoch that is done again shows does not matter

    def check(self, got: Any, expected: Any) -> None:
        if got != expected:
            self.wrong.append((got, expected))

    def act(self, op: Op) -> None:
        what, which, key, slot, number = op
        table, twin = self.tables[which], self.twins[which]
        match what:
            case "read" | "change":
                expected = twin.get(key)
                value = table[key] if expected is not NONE or key in table else NONE
                self.check(value, expected)
                if NONE in (value, expected):
                    return
                if what == "change":
                    change(value, number)
                    change(expected, number)
                self.held[slot], self.twins_held[slot] = value, expected
            case "change held":
                change(self.held[slot], number)
                change(self.twins_held[slot], number)
            case "write" | "setdefault" | "update":
                value, expected = literal(self.kind, number), literal(self.kind, number)
                if what == "setdefault" and key in twin.there():
                    self.check(table.setdefault(key, value), twin.get(key))
                    return
                table.update({key: value}) if what == "update" else table.__setitem__(key, value)
                twin.put(key, expected)
                self.held[slot], self.twins_held[slot] = value, expected
            case "write held":
                if self.held[slot] is not NONE:
                    table[key] = self.held[slot]
                    twin.put(key, self.twins_held[slot])
            case "delete" | "pop":
                self.check(table.pop(key, NONE) is NONE, key not in twin.there())
                twin.pop(key)
            case _:
                self.check((key in table, len(table)), (key in twin.there(), len(twin.there())))

    def record(self, todo: list[Op], *, isolating: bool) -> None:
        for table in self.tables:
            if isolating:
                table.uncommitted.savepoint()
            open_at(table, "orders", 0, self.handed)
        for op in todo:
            self.act(op)
        end_record(self.handed)
        for table, twin in zip(self.tables, self.twins, strict=True):
            close(table)
            twin.end_record()

    def commit(self) -> bool:
        changes = [table.uncommitted.encode_epoch(known) for table in self.tables]
        if any(table.uncommitted.untracked for table in self.tables):
            return False
        assert not self.wrong
        for table, change, twin in zip(self.tables, changes, self.twins, strict=True):
            table.uncommitted.freeze_epoch(change)
            table.uncommitted.epoch_committed(dict.fromkeys(change, 1))
            assert stored_of(table) == twin.content
        return True

    def run(self, program: list[list[Op]], *, each: bool, isolating: bool) -> None:
        epochs = [[todo] for todo in program] if each else [program]
        for epoch in epochs:
            for _ in range(3):
                saved = copy.deepcopy((self.held, self.twins, self.twins_held), {id(NONE): NONE})
                for todo in epoch:
                    self.record(todo, isolating=isolating)
                if self.commit():
                    break
                self.held, self.twins, self.twins_held = saved
                self.wrong, self.handed = [], []
                for table in self.tables:
                    table.uncommitted.drop_epoch()
            else:
                raise AssertionError("the epoch is done again and again")


def stored_of(table: Table) -> dict[Any, Any]:
    return stored(table)[0] if table.ttl_ms is None else dict(table.states[0].content.committed_items())


def expiring(default: Any) -> Table:
    table = TtlTable("t", default=default, ttl_ms=1_000, clock=lambda: 5)
    table.changelog_partitions = 3
    table.add_partition(0)
    return table


def everywhere(default: Any) -> Table:
    table = GlobalTable("t", default=default)
    table.changelog_partitions = 3
    table.add_partition(0)
    return table


KINDS: dict[str, Callable[[], Agent]] = {
    "lists": lambda: Agent(lambda: made(list), list, list),
    "dicts": lambda: Agent(lambda: made(dict), dict, dict),
    "structs": lambda: Agent(lambda: made(Basket), Basket, Basket),
    "sets": lambda: Agent(lambda: made(sets=True), set, set, sets=True),
    "lists by a declared type": lambda: Agent(lambda: made(value_type=list[int]), list, None),
    "dicts of which nothing is known": lambda: Agent(made, dict, None),
    "dicts that expire": lambda: Agent(lambda: expiring(dict), dict, dict),
    "dicts of which nothing is known that expire": lambda: Agent(lambda: expiring(None), dict, None),
    "lists on every worker": lambda: Agent(lambda: everywhere(list), list, list),
    "lists of which nothing is known on every worker": lambda: Agent(lambda: everywhere(None), list, None),
}


@pytest.mark.parametrize("kind", KINDS)
@given(program=programs)
@example(program=[[("read", 0, "a", 0, 0), ("change", 0, "a", 0, 0), ("change", 0, "a", 0, 0), ("pop", 0, "a", 0, 0)]])
@example(program=[[("write", 0, "c", 0, 0), ("pop", 0, "c", 0, 0), ("change held", 0, "a", 0, 0)]])
@example(
    program=[
        [("write", 0, "a", 2, 0)],
        [("change held", 0, "a", 2, 0)],
        [("read", 0, "a", 0, 0), ("delete", 0, "a", 0, 0)],
    ]
)
@settings(max_examples=20, deadline=None)
def test_it_cannot_be_seen_where_commits_fall(kind: str, program: list[list[Op]]) -> None:
    ends: list[Any] = []
    for each, isolating in ((False, False), (True, False), (False, True)):
        agent = KINDS[kind]()
        agent.run(program, each=each, isolating=isolating)
        ends.append([stored_of(table) for table in agent.tables])
    assert all(end == ends[0] for end in ends)
