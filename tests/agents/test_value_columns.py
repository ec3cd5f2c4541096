"""Values by column: what is taken for clean can be decoded, and columns of plain values are the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pyarrow as pa
import pytest
from anabranch.agents.value_columns import columns, fits
from anabranch.topics.packed import Rows, pack, rows_of
from anabranch.topics.serde import codec
from hypothesis import given, settings
from hypothesis import strategies as st


class Plain(msgspec.Struct):
    a: int
    b: str | None = None


class Real(msgspec.Struct):
    a: float
    b: Any = None


class Renamed(msgspec.Struct, rename={"of": "a"}):
    of: bool | None
    b: str = ""


class Bounded(msgspec.Struct):
    a: Annotated[int, msgspec.Meta(ge=0)]


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    a: int


class Checked(msgspec.Struct):
    a: int

    def __post_init__(self) -> None:
        if self.a < 0:
            raise ValueError("below 0")


@dataclass
class Data:
    a: int | None
    b: str = "none"


DECLARED = [Plain, Real, Renamed, Bounded, Closed, Checked, Data, dict[str, int], dict, str, bytes, None]


class Message:
    """As much of a packed message as its rows ask for."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        record = pack(batch)
        self.value, self.headers = lambda: record.value, lambda: record.headers
        self.offset, self.timestamp = lambda: 0, lambda: (1, 0)

    def __len__(self) -> int:
        return len(self.value())


def rows_in(batch: pa.RecordBatch) -> Rows:
    rows = rows_of("in", 0, Message(batch))
    assert rows is not None
    return rows


COLUMN = st.sampled_from(
    [
        st.tuples(st.just(pa.int64()), st.lists(st.integers(-2, 2), min_size=2, max_size=2)),
        st.tuples(st.just(pa.int64()), st.lists(st.none() | st.integers(-2, 2), min_size=2, max_size=2)),
        st.tuples(st.just(pa.float64()), st.lists(st.floats() | st.none(), min_size=2, max_size=2)),
        st.tuples(st.just(pa.string()), st.lists(st.sampled_from(["", "ä", "1"]), min_size=2, max_size=2)),
        st.tuples(st.just(pa.bool_()), st.lists(st.none() | st.booleans(), min_size=2, max_size=2)),
        st.tuples(st.just(pa.null()), st.just([None, None])),
    ]
).flatmap(lambda made: made)


@given(found=st.dictionaries(st.sampled_from("abc"), COLUMN, min_size=1), declared=st.sampled_from(DECLARED))
@settings(max_examples=400, deadline=None)
def test_what_fits_by_column_can_be_decoded(found: dict[str, Any], declared: Any) -> None:
    batch = pa.record_batch({name: pa.array(values, kind) for name, (kind, values) in found.items()})
    rows = rows_in(batch)
    if fits(declared, rows):
        made = codec(declared)
        assert made.decode_all([row.value() for row in rows]) == [made.decode(row.value()) for row in rows]


@pytest.mark.parametrize(
    ("declared", "clean"),
    [(Plain, True), (Real, True), (Data, True), (Renamed, False), (Bounded, False), (Closed, False), (Checked, False)],
)
def test_only_what_is_asked_of_types_alone_is_looked_at_by_column(declared: Any, clean: bool) -> None:
    assert fits(declared, rows_in(pa.record_batch({"a": [1, 2], "b": ["x", "y"]}))) is clean


def test_text_may_be_anything() -> None:
    rows = rows_of("in", 0, TextMessage())
    assert rows is not None
    assert fits(bytes, rows)
    assert not fits(str, rows)
    assert not fits(None, rows)


class TextMessage(Message):
    def __init__(self) -> None:
        super().__init__(pa.record_batch({"a": [1]}))
        record = pack(pa.record_batch({"line": [b"\xff", b"1,2"]}), value="text")
        self.value, self.headers = lambda: record.value, lambda: record.headers


@pytest.mark.parametrize(
    ("values", "declared", "expected"),
    [
        ([Plain(1, "x"), Plain(2)], Plain, {"a": [1, 2], "b": ["x", None]}),
        ([Plain(1, "x"), None], Plain, {"a": [1, None], "b": ["x", None]}),
        ([Renamed(True), Renamed(None)], Renamed, {"a": [True, None], "b": ["", ""]}),
        ([Data(1)], Data, {"a": [1], "b": ["none"]}),
        ([Real(1.5, [1]), Real(2.0, [2, 3])], Real, {"a": [1.5, 2.0], "b": [[1], [2, 3]]}),
        ([{"a": 1}, {"b": {"x": 1}}, None], None, {"a": [1, None, None], "b": [None, {"x": 1}, None]}),
        ([1, None, 3], None, {"value": [1, None, 3]}),
        ([b"x", b"y"], bytes, {"value": [b"x", b"y"]}),
        ([{}, None], None, {"value": [{}, None]}),
    ],
)
def test_values_become_columns(values: list[Any], declared: Any, expected: dict[str, list[Any]]) -> None:
    assert columns(values, declared).to_pydict() == expected


def test_a_type_that_is_declared_does_not_depend_on_the_values() -> None:
    assert columns([Plain(1), Plain(2)], Plain).schema.types == [pa.int64(), pa.string()]
    assert columns([Real(1), Real(2)], Real)["a"].type == pa.float64()
