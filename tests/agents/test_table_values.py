"""What a table can keep comes back as it was; what JSON would change is refused where it is written."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections import Counter, OrderedDict, defaultdict, namedtuple
from decimal import Decimal
from typing import Any

import faust
import msgspec
import pytest
from anabranch.topics.errors import BadRecord, Usage
from table_partitions import Basket, commit, known, made, open_at, stored

CANNOT_BE_KEPT: dict[str, Any] = {
    "a tuple": (1, 2),
    "a tuple in a list": [(1, 2)],
    "a date": datetime.date(2013, 1, 1),
    "a date in a dict": {"at": datetime.datetime(2013, 1, 1, tzinfo=datetime.UTC)},
    "a set": {1},
    "a set in a dict": {"s": {1}},
    "bytes": b"x",
    "a decimal": Decimal("1.5"),
    "a number as a key in a dict": {"by size": {1: 2}},
    "not a number": float("nan"),
    "infinity in a list": [1.0, float("inf")],
    "a struct": Basket(),
    "a struct in a list": [Basket()],
    "a counter": Counter("ab"),
    "a defaultdict": defaultdict(int),
    "half of a surrogate pair": "\ud800",
    "any object": object(),
    "any object in a list": [object()],
}


@pytest.mark.parametrize("value", CANNOT_BE_KEPT.values(), ids=CANNOT_BE_KEPT.keys())
def test_what_json_would_change_is_refused_at_the_gate_and_at_a_savepoint(value: Any) -> None:
    table = made()
    open_at(table, "orders", 0)
    table["good"] = 1
    table["bad"] = value
    with pytest.raises(BadRecord):
        table.uncommitted.savepoint()
    with pytest.raises(BadRecord):
        table.uncommitted.encode_epoch(known)


@pytest.mark.parametrize("key", [float("nan"), b"x", datetime.date(2013, 1, 1), ("a", b"x"), "\ud800", frozenset("a")])
def test_keys_that_json_would_change_are_refused(key: Any) -> None:
    table = made()
    open_at(table, "orders", 0)
    with pytest.raises(BadRecord):
        table.get(key)
    table[key] = 1
    with pytest.raises(BadRecord):
        table.uncommitted.savepoint()
    with pytest.raises(BadRecord):
        table.uncommitted.encode_epoch(known)


class Size(enum.Enum):
    SMALL = "s"


class Level(enum.IntEnum):
    LOW = 1


class Name(str):
    pass


class Point(msgspec.Struct):
    x: float
    tags: list[str] = []


class Flat(msgspec.Struct):
    n: int = 0
    share: float | None = 0.0


@dataclasses.dataclass
class Plain:
    share: float = 0.0


OF_ANOTHER_TYPE: dict[str, tuple[Any, Any]] = {
    "a counter in a dict": (None, {"seen": Counter("ab")}),
    "a defaultdict in a list": (None, [defaultdict(int, a=1)]),
    "an ordered dict in a dict": (None, {"a": OrderedDict(b=1)}),
    "an enum's number in a dict": (None, {"level": Level.LOW}),
    "an enum's number as a key": (None, {Level.LOW: 1}),
    "an enum's number": (None, Level.LOW),
    "text of a class of its own": (None, ["a", Name("b")]),
    "text of a class of its own as a key": (None, {Name("b"): 1}),
    "a list of a class of its own": (None, {"a": type("Own", (list,), {})([1])}),
    "an int for a float": (float, 1),
    "an enum's number for an int": (int, Level.LOW),
    "a flag for an int": (list[int], [True]),
    "an int for a float in a list": (list[float], [1.5, 1]),
    "an int for a float in a dict": (dict[str, float], {"a": 1}),
    "an int for a float in a struct": (Flat, Flat(1, 1)),
    "a flag for an int in a struct": (Flat, Flat(True, 1.0)),
    "not a number in a struct": (Flat, Flat(1, float("nan"))),
    "an int for a float in a dataclass": (Plain, Plain(1)),
    "an int for a float in a struct with a list": (Point, Point(1)),
    "a list of a class of its own in a struct": (Point, Point(1.0, type("Own", (list,), {})(["a"]))),
    "a counter where anything goes": (dict[str, Any], {"a": Counter("ab")}),
    "a counter in a list of dicts": (list[dict[str, int]], [Counter("ab")]),
    "an int for a float in a set": (set[float], {1}),
    "a named tuple for a tuple": (tuple[int, int], namedtuple("Pair", "a b")(1, 2)),
}


@pytest.mark.parametrize(("declared", "value"), OF_ANOTHER_TYPE.values(), ids=OF_ANOTHER_TYPE.keys())
def test_what_would_come_back_equal_and_of_another_type_is_refused(declared: Any, value: Any) -> None:
    table = made(value_type=declared)
    open_at(table, "orders", 0)
    table["bad"] = value
    with pytest.raises(BadRecord):
        table.uncommitted.savepoint()
    with pytest.raises(BadRecord):
        table.uncommitted.encode_epoch(known)


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (Flat, Flat(1, 0.5)),
        (Flat, Flat(1, None)),
        (Plain, Plain(1.0)),
        (Point, Point(1.0, ["a"])),
        (dict[str, Any], {"a": {"b": [1, 1.0, None, True, "c"]}}),
        (None, [{"a": [1, 1.0, None, True, "c"]}, {}]),
    ],
    ids=str,
)
def test_the_same_of_the_right_types_is_kept(declared: Any, value: Any) -> None:
    table = made(value_type=declared)
    open_at(table, "orders", 0)
    table["a"] = table["b"] = value
    commit(table)
    assert stored(table)[0] == {"a": value, "b": value}


def test_elements_of_sets_have_the_types_that_come_back() -> None:
    for declared, element in ((int, Level.LOW), (float, 1), (str, Name("a"))):
        table = made(sets=True, value_type=declared)
        open_at(table, "orders", 0)
        table["a"].add(element)
        with pytest.raises(BadRecord):
            table.uncommitted.encode_epoch(known)


def test_a_declared_key_of_another_type_that_is_equal_is_the_same_key() -> None:
    class Place(msgspec.Struct, frozen=True):
        x: float

    table = made(int, key_type=Place)
    for place in (Place(1), Place(1.0), Place(1)):
        open_at(table, "orders", 0)
        table[place] += 1
        commit(table)
    assert stored(table)[0] == {Place(1.0): 3}


@dataclasses.dataclass
class Visit:
    at: datetime.datetime
    size: Size


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (float, 1.0),
        (int | None, None),
        (datetime.date, datetime.date(2013, 1, 1)),
        (Visit, Visit(datetime.datetime(2013, 1, 1, 5, 17), Size.SMALL)),
        (list[Basket], [Basket(["a"], 1)]),
        (dict[int, set[int]], {2: {3, 1}, 1: set()}),
        (tuple[int, str], (1, "a")),
        (Decimal, Decimal("1.50")),
        (bytes, b"\x00\xff"),
        (str, "Zürich"),
    ],
    ids=str,
)
def test_what_has_a_declared_type_comes_back_as_it_was(declared: Any, value: Any) -> None:
    table = made(value_type=declared)
    open_at(table, "orders", 0)
    table["a"] = value
    commit(table)
    assert stored(table)[0] == {"a": value}
    open_at(table, "orders", 0)
    assert table["a"] == value


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (int, "1"),
        (int, True),
        (float, float("nan")),
        (Basket, {"items": [], "total": 0}),
        (Basket, None),
        (list[int], ["a"]),
        (dict[str, float], {"a": float("inf")}),
        (bytes, "text"),
        (str, b"bytes"),
    ],
    ids=str,
)
def test_what_does_not_fit_its_declared_type_is_refused(declared: Any, value: Any) -> None:
    table = made(value_type=declared)
    open_at(table, "orders", 0)
    table["a"] = value
    with pytest.raises(BadRecord):
        table.uncommitted.savepoint()
    with pytest.raises(BadRecord):
        table.uncommitted.encode_epoch(known)


def test_a_declared_key_comes_back_as_it_was_and_another_type_is_refused() -> None:
    table = made(int, key_type=datetime.date)
    open_at(table, "orders", 0)
    table[datetime.date(2013, 1, 1)] += 1
    with pytest.raises(BadRecord):
        table["2013-01-01"]
    commit(table)
    assert stored(table)[0] == {datetime.date(2013, 1, 1): 1}


@pytest.mark.parametrize("key_type", [bytes, str])
def test_text_and_bytes_are_different_keys_so_one_of_them_is_refused(key_type: type) -> None:
    right: Any = {bytes: b"a", str: "a"}[key_type]
    wrong: Any = {bytes: "a", str: b"a"}[key_type]
    table = made(int, key_type=key_type)
    open_at(table, "orders", 0)
    assert table[right] == 0
    with pytest.raises(BadRecord):
        table[wrong]


def test_whole_floats_and_integers_are_one_key_as_in_a_dict() -> None:
    table = made(int)
    open_at(table, "orders", 0)
    table[3.0] += 1
    commit(table)
    open_at(table, "orders", 0)
    table[3] += 1
    table[("a", 3.0)] += 1
    commit(table)
    assert stored(table)[0] == {3: 2, ("a", 3): 1}


@pytest.mark.parametrize("default", [Counter, lambda: defaultdict(int), object, lambda: float("nan"), lambda: [(1, 2)]])
def test_a_default_that_would_not_come_back_is_refused_where_the_table_is_declared(default: Any) -> None:
    with pytest.raises(Usage, match="table t: its default"):
        made(default)


def test_the_type_of_the_default_is_the_declared_type_where_json_would_lose_it() -> None:
    table = made(lambda: {1, 2})
    open_at(table, "orders", 0)
    table["a"].add(3)
    commit(table)
    open_at(table, "orders", 0)
    assert table["a"] == {1, 2, 3}


class Shopper(faust.Record):
    tags: list[str] = []  # noqa: RUF012 (one list for all instances, as users write it)


SHARED: list[str] = []


@pytest.mark.parametrize("savepoints", [False, True])
@pytest.mark.parametrize(
    ("default", "tags"),
    [
        (Shopper, lambda value: value.tags),
        (lambda: SHARED, lambda value: value),
        (lambda: {"tags": SHARED}, lambda value: value["tags"]),
    ],
    ids=["record", "list", "dict"],
)
def test_keys_do_not_share_what_their_defaults_share(default: Any, tags: Any, savepoints: bool) -> None:
    table = made(default)
    open_at(table, "orders", 0)
    for key, tag in (("a", "1"), ("b", "2"), ("a", "3")):
        tags(table[key]).append(tag)
        if savepoints:
            table.uncommitted.savepoint()
    assert tags(table["a"]) == ["1", "3"]
    commit(table)
    open_at(table, "orders", 0)
    assert [tags(table[key]) for key in "abc"] == [["1", "3"], ["2"], []]


def test_equal_sets_are_equal_bytes_whatever_order_they_were_filled_in() -> None:
    found: set[bytes] = set()
    for order in ([8, "a", ("b", 2), 16, 0], [0, 16, ("b", 2), "a", 8.0]):
        table = made(sets=True)
        open_at(table, "orders", 0)
        for element in order:
            table["k"].add(element)
        found.add(commit(table)[0].values[0])
    assert found == {b'["a",0,16,8,["b",2]]'}


@pytest.mark.parametrize(
    "value",
    [["a"], frozenset("a"), {"a": 1}, None, "a", {b"x"}, {float("nan")}, {frozenset()}, {datetime.date(2013, 1, 1)}],
    ids=repr,
)
def test_what_is_no_set_of_such_elements_is_refused(value: Any) -> None:
    table = made(sets=True)
    open_at(table, "orders", 0)
    table["bad"] = value
    with pytest.raises(BadRecord):
        table.uncommitted.savepoint()
    with pytest.raises(BadRecord):
        table.uncommitted.encode_epoch(known)


@pytest.mark.parametrize(
    ("declared", "value"), [(str, {"Zürich", ""}), (bytes, {b"\xff"}), (datetime.date, {datetime.date(2013, 1, 1)})]
)
def test_elements_have_their_declared_type(declared: Any, value: Any) -> None:
    table = made(sets=True, value_type=declared)
    open_at(table, "orders", 0)
    table["a"] |= value
    commit(table)
    assert stored(table)[0] == {"a": value}
    open_at(table, "orders", 0)
    table["a"].add(7)
    with pytest.raises(BadRecord):
        table.uncommitted.encode_epoch(known)


def test_a_value_that_cannot_be_kept_and_is_overwritten_before_the_epoch_ends_was_never_there() -> None:
    # An epoch is looked at when it ends, so that writing stays as fast as in a dict. Record by record it is noticed.
    table = made()
    open_at(table, "orders", 0)
    table["a"] = object()
    table["a"] = 1
    commit(table)
    assert stored(table)[0] == {"a": 1}
    open_at(table, "orders", 0)
    table.uncommitted.savepoint()
    table["a"] = object()
    with pytest.raises(BadRecord):
        table.uncommitted.savepoint()
