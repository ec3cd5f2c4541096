"""Decoding and encoding of values by declared type."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections import Counter
from decimal import Decimal
from typing import Any

import faust
import msgspec
import pytest
from anabranch.topics.equality import identical, same_value
from anabranch.topics.errors import BadRecord, Usage
from anabranch.topics.serde import codec, key_codec, value_codec
from hypothesis import given
from hypothesis import strategies as st


class Order(msgspec.Struct):
    user: str
    amount: int


@dataclasses.dataclass
class Flight:
    day: datetime.date
    delays: list[float]


class Colour(enum.Enum):
    RED = "red"


class Payment(faust.Record):
    user: str
    amount: int = 0


class JsonPayment(faust.Record, serializer="json"):
    user: str


WIRE: list[tuple[Any, Any, bytes]] = [
    (None, {"b": [1, 2.5], "a": None}, b'{"b":[1,2.5],"a":null}'),
    (None, "Zürich", '"Zürich"'.encode()),
    (None, True, b"true"),
    (None, 10**30, b"1" + b"0" * 30),
    (bytes, b"\x00\xff", b"\x00\xff"),
    (bytes, b"", b""),
    (str, "Zürich", "Zürich".encode()),
    (str, "", b""),
    (int, 7, b"7"),
    (float, 0.1, b"0.1"),
    (Order, Order("ada", 7), b'{"user":"ada","amount":7}'),
    (Flight, Flight(datetime.date(2013, 1, 1), [2.0, -4.5]), b'{"day":"2013-01-01","delays":[2.0,-4.5]}'),
    (Colour, Colour.RED, b'"red"'),
    (Decimal, Decimal("1.50"), b'"1.50"'),
    (list[int], [3, 1], b"[3,1]"),
    (set[int], {3, 1, 2}, b"[1,2,3]"),
    (tuple[str, int], ("a", 1), b'["a",1]'),
    (dict[int, str], {2: "b", 1: "a"}, b'{"2":"b","1":"a"}'),
    (int | None, None, b"null"),
    (list[Order], [Order("ada", 7)], b'[{"user":"ada","amount":7}]'),
]


@pytest.mark.parametrize(("declared", "value", "wire"), WIRE, ids=lambda x: repr(x)[:30])
def test_the_table_of_declared_types(declared: Any, value: Any, wire: bytes) -> None:
    chosen = codec(declared)
    assert chosen.encode(value) == wire
    assert chosen.keep(value) == wire
    assert chosen.draft(value) == wire
    assert chosen.keep_all([value, value]) == [wire, wire]
    back = chosen.decode(wire)
    assert (back, type(back)) == (value, type(value))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(plain, max_size=6))
def test_whatever_json_holds_comes_back(values: list[Any]) -> None:
    undeclared = codec()
    kept = undeclared.keep_all(values)
    assert kept == [undeclared.keep(value) for value in values] == [undeclared.encode(value) for value in values]
    assert [undeclared.decode(data) for data in kept] == values


@given(st.lists(st.builds(Order, st.text(), st.integers(-(2**63), 2**63 - 1)), max_size=6))
def test_structs_come_back(values: list[Order]) -> None:
    declared = codec(Order)
    assert [declared.decode(data) for data in declared.keep_all(values)] == values


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.dates()
    | st.decimals(allow_nan=False)
    | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.text() | st.integers() | st.none(), inner, max_size=3)
        | st.sets(st.integers(), max_size=2)
    ),
    max_leaves=5,
)
DECLARED = [
    None,
    bytes,
    str,
    int,
    float,
    bool,
    Decimal,
    datetime.date,
    list[int],
    dict[str, float],
    Order,
    Payment,
    Any,
]


@given(st.sampled_from(DECLARED), st.lists(anything, max_size=4))
def test_what_is_kept_comes_back_and_everything_else_is_a_bad_record(declared: Any, values: list[Any]) -> None:
    # The law tables stand on; `Any` promises only that it is stable from then on.
    chosen = codec(declared)

    def outcome(value: Any) -> bytes | None:
        try:
            return chosen.keep(value)
        except BadRecord:
            return None

    each = [outcome(value) for value in values]
    for value, data in zip(values, each, strict=True):
        if data is not None and declared is not Any:
            assert chosen.decode(data) == value
    try:
        assert chosen.keep_all(values) == each
    except BadRecord:
        assert None in each


@given(
    st.lists(
        st.text()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.tuples(st.text(), st.integers())
    )
)
def test_keys_come_back_equal_and_equal_keys_are_the_same_bytes(keys: list[Any]) -> None:
    undeclared = key_codec()
    kept = undeclared.keep_all(keys)
    assert [undeclared.decode(data) for data in kept] == keys
    assert len(set(kept)) == len(set(keys))


@pytest.mark.parametrize(
    ("declared", "one", "other"),
    [(float, 1, 1.0), (tuple[float, str], (1, "a"), (1.0, "a")), (Decimal, 1, Decimal(1))],
)
def test_equal_keys_of_a_declared_type_are_the_same_bytes(declared: Any, one: Any, other: Any) -> None:
    declared_keys = key_codec(declared)
    assert declared_keys.keep(one) == declared_keys.keep(other)
    assert declared_keys.keep_all([one, other]) == [declared_keys.keep(one)] * 2


def test_json_arrays_are_tuples_where_they_are_keys() -> None:
    assert key_codec().decode(b'["a",["b",1]]') == ("a", ("b", 1))
    assert key_codec(tuple[str, int]).decode(b'["a",1]') == ("a", 1)


def test_dictionaries_come_back_in_the_order_they_were_made() -> None:
    # Else a program that depends on it would depend on when its commits fell.
    for made in ({"b": 1, "a": 2}, {"a": 2, "b": 1}):
        assert list(codec().decode(codec().keep(made))) == list(made)


def test_sets_are_the_same_bytes_in_whatever_order_they_were_made() -> None:
    names = [f"name-{n}" for n in range(50)]
    assert codec(set[str]).encode({*names}) == codec(set[str]).encode({*reversed(names)})
    numbers = {n: set(names) for n in range(20)}
    assert codec(dict[int, set[str]]).encode(numbers) == codec(dict[int, set[str]]).encode(
        dict(reversed(numbers.items()))
    )


def test_for_sending_text_may_be_given_as_bytes_and_bytes_as_text() -> None:
    assert codec(bytes).encode("Zürich") == codec(str).encode("Zürich".encode()) == "Zürich".encode()
    with pytest.raises(BadRecord):
        codec(bytes).encode(7)
    with pytest.raises(BadRecord):
        codec(str).encode(7)


@pytest.mark.parametrize(
    "value", [Order("ada", 7), (1,), {1}, Counter("a"), datetime.date(2013, 1, 1), b"x", Colour.RED]
)
def test_for_sending_a_value_that_is_not_json_needs_a_declared_type(value: Any) -> None:
    with pytest.raises(BadRecord, match="declare its type"):
        codec().encode(value)


@pytest.mark.parametrize("model", [Payment, JsonPayment])
def test_a_faust_record_travels_by_its_own_loads_and_dumps_as_json(model: Any) -> None:
    chosen = codec(model)
    payment = model(user="ada")
    data = chosen.encode(payment)
    assert msgspec.json.decode(data)["user"] == "ada"
    assert chosen.decode(data) == payment
    assert type(chosen.decode(b'{"user":"ada"}')) is model
    assert chosen.keep(payment) == data
    assert chosen.keep_all([payment, payment]) == [data, data]
    with pytest.raises(BadRecord):
        chosen.keep({"user": "ada"})


def test_a_faust_record_keeps_the_serializer_it_declares() -> None:
    class Secret(faust.Record, serializer="json|binary"):
        user: str

    chosen = codec(Secret)
    data = chosen.encode(Secret("ada"))
    assert b"ada" not in data, "binary is Faust's name for base64"
    assert chosen.decode(data) == Secret("ada")


def test_bytes_that_do_not_fit_raise() -> None:
    for declared, data in [(None, b"{"), (Order, b'{"user":1}'), (int, b'"7"'), (str, b"\xff"), (Payment, b"{")]:
        with pytest.raises(Exception):  # noqa: B017 (whatever the library raises)
            codec(declared).decode(data)


def test_one_declared_type_has_one_codec() -> None:
    assert codec(Order) is codec(Order)
    assert codec(list[int]) is codec(list[int])
    assert repr(codec(Order)) == "Codec(Order)"


def test_a_tables_values_are_of_the_declared_type_or_else_of_the_defaults() -> None:
    assert value_codec("t", None, None) is codec()
    assert value_codec("t", None, int) is codec()
    assert value_codec("t", None, dict) is codec()
    assert value_codec("t", Order, None) is codec(Order)
    assert value_codec("t", None, lambda: Order("", 0)) is codec(Order)
    assert value_codec("t", float, int) is codec(float)
    with pytest.raises(Usage, match="table t: its default, a Counter"):
        value_codec("t", None, Counter)


@given(st.tuples(*[st.one_of(st.integers(), st.floats(), st.booleans(), st.text(), st.none())] * 2))
def test_a_flat_struct_is_compared_as_any_value(cells: tuple[Any, Any]) -> None:
    class Pair(msgspec.Struct, eq=False):
        a: Any
        b: Any

    for other in (cells, (1, 1.0), (True, 1), (0.0, -0.0), cells[::-1]):
        mine, theirs = Pair(*cells), Pair(*other)
        assert same_value(mine, theirs) == identical(mine, theirs)
    assert not same_value(Pair([1], 2), Pair([1.0], 2))
