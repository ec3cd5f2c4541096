"""Tables one by one: what the machines found, and what a dict cannot show."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from anabranch.agents.tables.agent_step import AgentStep
from anabranch.agents.tables.global_table import GlobalTable
from anabranch.agents.tables.store import Changes
from anabranch.agents.tables.table import Table
from anabranch.topics.errors import BadRecord, Usage
from table_partitions import PARTITIONS, Steps, close, commit, made, open_at, stored


def test_a_default_that_was_only_looked_at_is_not_a_key_in_savepoint_mode_either() -> None:
    table = made(list)
    open_at(table, "orders", 0)
    assert table["a"] == []
    table.uncommitted.savepoint()
    assert table["a"] == []
    assert "a" not in table
    assert len(table) == 0
    assert commit(table) == {}


def test_undoing_a_record_brings_back_what_an_earlier_one_only_looked_at() -> None:
    table = made(list)
    open_at(table, "orders", 0)
    assert table["a"] == []
    table.uncommitted.savepoint()
    table["a"] = [1]
    del table["a"]
    assert table["a"] == []
    table.uncommitted.discard_writes()
    assert "a" not in table
    assert commit(table) == {}


def test_whatever_an_agent_does_with_a_table_what_waits_is_there() -> None:
    """And each method that a dict has is one that folds first, or shows nothing of what is in it."""
    does: dict[str, tuple[Callable[[Table], Any], Any]] = {
        "__contains__": (lambda t: "a" in t, True),
        "__delitem__": (lambda t: t.__delitem__("a"), None),
        "__eq__": (lambda t: t == {"a": 1}, True),
        "__getitem__": (lambda t: t["a"], 1),
        "__ior__": (lambda t: t.__ior__({"b": 2}) == {"a": 1, "b": 2}, True),
        "__iter__": (lambda t: list(iter(t)), ["a"]),
        "__len__": (len, 1),
        "__ne__": (lambda t: t != {"a": 1}, False),
        "__or__": (lambda t: t | {"b": 2}, {"a": 1, "b": 2}),
        "__reversed__": (lambda t: list(reversed(t)), ["a"]),
        "__ror__": (lambda t: {"b": 2} | t, {"a": 1, "b": 2}),
        "__setitem__": (lambda t: t.__setitem__("a", 7), None),
        "clear": (lambda t: t.clear(), None),
        "copy": (lambda t: t.copy(), {"a": 1}),
        "get": (lambda t: t.get("a"), 1),
        "items": (lambda t: list(t.items()), [("a", 1)]),
        "keys": (lambda t: list(t.keys()), ["a"]),
        "pop": (lambda t: t.pop("a"), 1),
        "popitem": (lambda t: t.popitem(), ("a", 1)),
        "setdefault": (lambda t: t.setdefault("a", 5), 1),
        "update": (lambda t: t.update({"b": 2}), None),
        "values": (lambda t: list(t.values()), [1]),
    }
    others = {"__class_getitem__", "__doc__", "__ge__", "__gt__", "__le__", "__lt__", "__sizeof__", "fromkeys"}
    others |= {"__hash__", "__repr__", "__getattribute__", "__new__", "__init__"}
    assert set(vars(dict)) - others == does.keys()
    for name, (call, expected) in does.items():
        table = made(int)
        open_at(table, "orders", 0)
        table.at_hand().defer("orders", Steps([{"a": 1}]))
        assert call(table) == expected, name
        left = {"__delitem__": {}, "__ior__": {"a": 1, "b": 2}, "__setitem__": {"a": 7}, "clear": {}, "pop": {}}
        left |= {"popitem": {}, "update": {"a": 1, "b": 2}}
        commit(table)
        assert stored(table)[0] == left.get(name, {"a": 1}), name


def test_what_waits_is_not_seen_outside_before_the_commit_and_cannot_be_undone_with_a_record() -> None:
    table = made(int)
    open_at(table, "orders", 0)
    table.at_hand().defer("orders", Steps([{"a": 1}]))
    close(table)
    assert table == {}
    open_at(table, "orders", 1)
    assert table["a"] == 0
    table.uncommitted.savepoint()
    table["b"] = 1
    table.uncommitted.discard_writes()
    commit(table)
    assert stored(table) == {0: {"a": 1}, 1: {}, 2: {}}


def test_only_what_changed_is_encoded_once_and_deletions_are_tombstones() -> None:
    table = made(dict)
    open_at(table, "orders", 0)
    table["kept"], table["changed"], table["gone"] = {"n": 1}, {"n": 1}, {"n": 1}
    commit(table)
    open_at(table, "orders", 0)
    assert table["kept"] == {"n": 1}
    table["changed"]["n"] += 1
    table["changed"]["n"] += 1
    del table["gone"]
    changes = commit(table)[0]
    assert dict(zip(changes.keys, changes.values, strict=True)) == {b'"changed"': b'{"n":3}', b'"gone"': None}
    assert changes.deletes


def test_an_object_that_the_agent_holds_over_another_partitions_record_still_counts() -> None:
    #  agent one   ── holds table["a"] ──────────────── appends
    #  agent two                        partition 1
    table = made(list)
    open_at(table, "orders", 0)
    held = table["a"]
    close(table)
    open_at(table, "orders", 1)
    table["b"] = [2]
    close(table)
    open_at(table, "orders", 0)
    held.append(1)
    commit(table)
    assert stored(table) == {0: {"a": [1]}, 1: {"b": [2]}, 2: {}}


def test_a_savepoint_that_fails_has_moved_nothing_so_the_record_can_be_undone() -> None:
    table = made(list)
    open_at(table, "orders", 0)
    table["good"].append(1)
    table.uncommitted.savepoint()
    table["good"].append(2)
    table["bad"].append(datetime.date(2013, 1, 1))
    with pytest.raises(BadRecord):
        table.uncommitted.savepoint()
    table.uncommitted.discard_writes()
    commit(table)
    assert stored(table)[0] == {"good": [1]}


def test_a_partition_that_was_away_is_there_when_it_comes_back() -> None:
    table = made(int)
    open_at(table, "orders", 2)
    table["a"] += 1
    commit(table)
    table.suspend_others({0, 1})
    open_at(table, "orders", 2)  # a timer of `take` resumes the agent at the partition it had
    with pytest.raises(Usage, match="partition 2 of topic orders"):
        table["a"]
    close(table)
    table.add_partition(2, table.take_suspended()[2])
    open_at(table, "orders", 2)
    assert table["a"] == 1


# What is at hand.


def counted(table: Table, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys that are read from the store of partition 0."""
    asked: list[bytes] = []
    store = table.states[0].store
    monkeypatch.setattr(type(store), "get", lambda _, key: asked.append(key) or store._data.get(key))
    return asked


def test_hot_keys_are_read_once(monkeypatch) -> None:
    table = made(int)
    content = Changes([b'"read only"', b'"written"'], [b"7", b"0"], deletes=False)
    table.states[0].store.apply(content, 2)
    asked = counted(table, monkeypatch)
    for _ in range(5):
        open_at(table, "orders", 0)
        assert table["read only"] == 7
        table["written"] += 1
        table["new"] += 1
        commit(table)
    assert asked == [b'"read only"', b'"written"', b'"new"']
    assert table["written"] == 5


@pytest.mark.parametrize("what", ["values", "keys", "keys that are only read", "the same key again and again"])
def test_what_is_at_hand_is_bounded_in_bytes(what: str, monkeypatch) -> None:
    monkeypatch.setattr("anabranch.agents.tables.value_cache.CACHE_BYTES", 1_000_000)
    table, long = made(str), "x" * 10_000
    largest = 0
    for step in range(300):
        open_at(table, "orders", 0)
        match what:
            case "values":
                table[step] = long + str(step)
            case "keys":
                table[long + str(step)] = ""
            case "keys that are only read":
                table.states[0].cache.add(long + str(step), "")
            case _:
                table["hot"] = long + str(step)
        commit(table)
        view = table.states[0].cache
        largest = max(largest, sum(len(str(key)) + len(value) for key, value in view.items()))
    assert largest <= (1_000_000 if what == "values" else 11_000 if "same" in what else 2_000_000)
    assert what != "the same key again and again" or "hot" in view


# Outside of an agent.

WRITES: dict[str, Callable[[Table], Any]] = {
    "item": lambda table: table.__setitem__("a", 1),
    "augmented": lambda table: table.__setitem__("a", table["a"] + 1),
    "delete": lambda table: table.__delitem__("a"),
    "pop": lambda table: table.pop("a"),
    "pop with a default": lambda table: table.pop("z", None),
    "popitem": lambda table: table.popitem(),
    "setdefault": lambda table: table.setdefault("a", 1),
    "update": lambda table: table.update(a=1),
    "update with nothing": lambda table: table.update(),
    "|=": lambda table: table.__ior__({"a": 1}),
    "clear": lambda table: table.clear(),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_a_closed_table_refuses_to_be_written(write: Callable[[Table], Any]) -> None:
    table = made(int)
    open_at(table, "orders", 0)
    table["a"] = 5
    commit(table)
    with pytest.raises(BadRecord, match="table t: cannot modify a table outside of an agent"):
        write(table)
    open_at(table, "orders", 0)
    assert table == {"a": 5}


def test_a_closed_table_shows_what_is_committed_in_all_local_partitions() -> None:
    table = made(list)
    for partition, key in enumerate("abc"):
        open_at(table, "orders", partition)
        table[key].append(partition)
    commit(table)
    open_at(table, "orders", 0)
    table["a"].append("uncommitted")
    table["new"] = [1]
    close(table)
    assert table == {"a": [0], "b": [1], "c": [2]} == dict(table) == table.copy()
    assert table["a"] == table.get("a") == [0]
    assert table["new"] == []
    assert table.get("new", "else") == "else"
    assert "new" not in table
    assert len(table) == 3
    assert sorted(table.keys()) == sorted(table) == ["a", "b", "c"]
    table["a"].append("changes a copy")
    assert table["a"] == [0]


def test_a_closed_table_without_a_default_raises_key_errors() -> None:
    table = made()
    with pytest.raises(KeyError):
        table["a"]
    assert table.get("a") is None


# Partitions that do not match.


def test_a_topic_with_another_number_of_partitions_is_refused_at_the_gate() -> None:
    table = made(int)
    table.changelog_topic = type("Topic", (), {"get_topic_name": lambda _: "app-t-changelog"})()
    open_at(table, "orders", 0)
    table["a"] += 1
    with pytest.raises(Usage, match="topic orders has 5 partitions, the changelog app-t-changelog has 3"):
        table.uncommitted.encode_epoch(lambda _: 5)


def test_a_partition_that_the_changelog_lacks_is_refused_when_it_is_read_and_when_it_is_written() -> None:
    table = made(int)
    open_at(table, "orders", 7)
    with pytest.raises(Usage, match="partition 7 of topic orders has no matching partition"):
        table["a"]
    with pytest.raises(Usage, match="which has 3 partitions"):
        table["a"] = 1
    open_at(table, "orders", 0)
    assert len(table) == 0


def test_an_agent_that_only_reads_numbers_writes_nothing() -> None:
    table = made(int)
    open_at(table, "orders", 0)
    assert table["a"] == 0
    assert "a" not in table
    assert commit(table) == {}


def test_a_table_that_is_not_an_app_s_cannot_have_windows() -> None:
    with pytest.raises(Usage, match="cannot have windows"):
        made(int).tumbling(10)


# What an agent touches.


def test_a_table_that_an_agent_does_not_touch_is_not_opened() -> None:
    step = AgentStep()
    touched, untouched = (Table("t", default=int, step=lambda: step) for _ in range(2))
    for table in (touched, untouched):
        table.changelog_partitions = PARTITIONS
        for partition in range(PARTITIONS):
            table.add_partition(partition)
    for partition in (0, 1, 0):
        step.begin("orders", partition, [])
        touched["a"] += partition + 1
        assert step.opened == [touched]
        step.end()
    assert not step.opened
    assert not untouched.uncommitted.partitions
    assert touched == {}
    commit(touched)
    assert stored(touched) == {0: {"a": 2}, 1: {"a": 2}, 2: {}}


TOUCHES: dict[str, Callable[[Table], Any]] = {
    "[]": lambda t: t["a"],
    "[]=": lambda t: t.__setitem__("a", 1),
    "in": lambda t: "a" in t,
    "get": lambda t: t.get("a"),
    "del": lambda t: t.pop("a", None),
    "len": len,
    "iteration": list,
    "items": lambda t: t.items(),
    "update": lambda t: t.update(a=1),
    "setdefault": lambda t: t.setdefault("a", 1),
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_the_first_touch_opens_it_at_the_record_s_partition(touch: Callable[[Table], Any]) -> None:
    table = made(int)
    for partition in (0, 1):
        open_at(table, "orders", partition)
        table["a"] = table["b"] = partition
    commit(table)
    open_at(table, "orders", 1)
    assert touch(table) not in (0, [("a", 0), ("b", 0)])
    assert table.step().opened == [table]
    assert table["b"] == 1
    close(table)
    with pytest.raises(BadRecord, match="outside of an agent"):
        table["a"] = 3


def test_an_agent_that_only_reads_does_not_count_as_a_writer() -> None:
    #  orders, 3 partitions: writes   lookups, 5 partitions: only reads
    table = made(int)
    open_at(table, "orders", 0)
    table["a"] = 1
    open_at(table, "lookups", 0)
    assert table["a"] == 1
    close(table)
    changes = table.uncommitted.encode_epoch(lambda topic: {"orders": 3, "lookups": 5}[topic])
    assert table.uncommitted.writer_topics == {"orders"}
    assert list(changes) == [0]


def test_a_global_table_is_read_at_partitions_that_it_lacks_and_not_written_there() -> None:
    table = GlobalTable("t", default=int)
    table.changelog_partitions = PARTITIONS
    table.add_partition(0)
    open_at(table, "rates", 0)
    table["a"] = 1
    commit(table)
    open_at(table, "orders", 7)
    assert table["a"] == 1
    assert "b" not in table
    for touch in (lambda: table["b"], lambda: table.__setitem__("a", 2), lambda: table.pop("a")):
        with pytest.raises(Usage, match="partition 7 of topic orders has no matching partition"):
            touch()


def test_a_key_that_a_global_table_without_default_lacks_is_a_key_error_at_each_partition() -> None:
    table = GlobalTable("t")
    table.changelog_partitions = PARTITIONS
    table.add_partition(0)
    for partition in (0, 7):
        open_at(table, "orders", partition)
        with pytest.raises(KeyError):
            table["b"]


def test_a_key_of_a_global_table_is_written_by_one_partition() -> None:
    #   partition 0   a = 1  │ commit │            a = 3  │  allowed: it is its own
    #   partition 1          │        │ a += 1            │  refused, whether or not that commit has been
    table = GlobalTable("t", default=int)
    table.changelog_partitions = PARTITIONS
    for partition in (0, 1):
        table.add_partition(partition)
    for committed in (False, True):
        open_at(table, "rates", 0)
        table["a"] = 1
        table.uncommitted.savepoint()
        if committed:
            commit(table)
        open_at(table, "rates", 1)
        table["a"] += 1
        for check in (table.uncommitted.savepoint, lambda: commit(table)):
            with pytest.raises(BadRecord, match=r"key .a. is written to partition ., and partition . has it"):
                check()
        table.uncommitted.drop_epoch()
    open_at(table, "rates", 0)
    table["a"] = 3
    open_at(table, "rates", 1)
    table["b"] = table["a"]
    commit(table)
    open_at(table, "rates", 0)
    del table["a"]
    open_at(table, "rates", 1)
    table["a"] = 4
    commit(table)
    close(table)
    assert dict(table) == {"a": 4, "b": 1}  # of other partitions, committed values are read
