"""Flows by column: whatever columns give, rows give, bit by bit; against the row way over generated batches."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from anabranch import col
from anabranch.agents.flows.aggregates import Aggregate, Count, Distinct, Max, Mean, Min, Sum, Top
from anabranch.agents.flows.column_evaluation import Frame
from anabranch.agents.flows.combiner import Combiner, Failed
from anabranch.agents.flows.expressions import Constant, Expression, Function, NotVectorizable, Operation
from anabranch.agents.flows.hyperloglog import ApproxDistinct
from anabranch.agents.flows.operators import Filter, FlatMap, Keying, Map, Operator, Select, WithColumns
from anabranch.agents.flows.pieces import Pieces
from anabranch.agents.flows.reducers import AggregateReducer, PairReducer
from anabranch.topics.errors import Usage
from anabranch.topics.serde import codec
from hypothesis import event, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("ANABRANCH_FUZZ_EXAMPLES", "100"))  # `make faults` gives more

# Batches -------------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**62, 2**63 - 1, -(2**63)]))
FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 0.1, 0.2, 0.7, -1.5, 3.0, 1e16, 1e308, -1e308, 5e-324, float(2**53), 2.0**63]),
    st.floats(allow_nan=False, allow_infinity=False),
)
TEXTS = st.one_of(
    st.sampled_from(["", "a", "B", "ab", " 7 ", "7", "1_0", "nan", "ß", "ΑΣ", "\x1f7", "\U0001d518", "\uffff"]),
    st.text(max_size=3),
)
KINDS = {
    "a": (pa.int64(), NUMBERS),
    "b": (pa.int64(), NUMBERS),
    "i": (pa.int32(), st.integers(-2, 9)),
    "w": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "f": (pa.float64(), FLOATS),
    "g": (pa.float64(), FLOATS),
    "t": (pa.string(), TEXTS),
    "u": (pa.large_string(), TEXTS),
    "p": (pa.bool_(), st.booleans()),
    "q": (pa.bool_(), st.booleans()),
    "z": (pa.null(), st.none()),
}


@st.composite
def batches(draw: Any, max_rows: int = 8) -> pa.RecordBatch:
    rows = draw(st.integers(1, max_rows))
    nulls = draw(st.sets(st.sampled_from(sorted(KINDS)), max_size=3))
    columns = {
        name: pa.array(
            draw(st.lists(st.one_of(st.none(), of) if name in nulls else of, min_size=rows, max_size=rows)), kind
        )
        for name, (kind, of) in KINDS.items()
    }
    return pa.record_batch(columns)


# Expressions ---------------------------------------------------------------------------------------------------------

SIGNS = ["+", "-", "*", "/", "//", "%", "==", "!=", "<", "<=", ">", ">=", "&", "|"]
CALLS = ["-", "~", "is_null", "lower", "upper", "strip", "length", "to_int", "to_float"]
CONSTANTS = st.one_of(NUMBERS, FLOATS, st.booleans(), st.sampled_from(["", "a", "7"]), st.none(), st.just(2**70))
LEAVES = st.one_of(st.sampled_from(sorted(KINDS)).map(col), CONSTANTS.map(Constant))
NUMERIC = st.one_of(st.sampled_from("abifg").map(col), NUMBERS.map(Constant), FLOATS.map(Constant))
FLAGS = st.one_of(
    st.sampled_from("pq").map(col),
    st.builds(Operation, st.sampled_from(SIGNS[6:12]), NUMERIC, NUMERIC),
    st.sampled_from("abfgtuz").map(lambda name: col(name).is_null()),
)


def grown(inner: Any) -> Any:
    return st.one_of(
        st.builds(Operation, st.sampled_from(SIGNS), inner, inner),
        st.builds(Function, st.sampled_from(CALLS), inner),
        st.builds(Function, st.sampled_from(["startswith", "endswith", "contains"]), inner, st.sampled_from(["", "a"])),
        st.builds(Function, st.just("fill_null"), inner, CONSTANTS),
    )


# Anything at all, mostly nonsense; arithmetic that makes sense; conditions that do.
EXPRESSIONS = st.one_of(
    st.recursive(LEAVES, grown, max_leaves=6),
    st.recursive(NUMERIC, lambda inner: st.builds(Operation, st.sampled_from(SIGNS[:6]), inner, inner), max_leaves=4),
    st.recursive(
        FLAGS,
        lambda inner: st.one_of(
            st.builds(Operation, st.sampled_from("&|"), inner, inner), st.builds(Function, st.just("~"), inner)
        ),
        max_leaves=4,
    ),
)


def bits(value: Any) -> Any:
    """Return a text that differs for 1, 1.0 and True, and for 0.0 and -0.0, and is the same for all NaN."""
    return repr(value)


@settings(max_examples=EXAMPLES, deadline=None)
@given(batches(), EXPRESSIONS)
def test_an_expression_means_the_same_by_column(batch: pa.RecordBatch, expression: Expression) -> None:
    try:
        column = expression.column(Frame(batch))
    except NotVectorizable as reason:
        event(f"by row: {reason}")
        return  # row by row, then
    event(f"column of {column.kind}")
    values = column.values.to_pylist() if column.kind == "text" else column.values.tolist()
    truth = column.truth().tolist()
    for row, element in enumerate(batch.to_pylist()):
        if not column.bad[row]:
            value = expression(element)  # does not raise
            assert bits(value) == bits(None if column.null[row] else values[row]), element
            assert truth[row] == bool(value)


@pytest.mark.parametrize(
    "expression",
    [
        (col("a") + 1) * 2 - col("b") // 3 % 5,
        col("f") / 2 + col("a"),
        (col("a") > 0) & ~(col("t") == "a") | col("t").lower().startswith("b"),
        col("t").to_int().is_null() | (col("t").length() < col("a")),
        -col("a") <= col("f").fill_null(0.0),
        (col("z") == None) & (col("t") + col("u")).contains("x"),  # noqa: E711
    ],
)
def test_what_is_usual_has_a_column_way(expression: Expression) -> None:
    batch = pa.record_batch(
        {
            "a": [1, 2, 3],
            "b": [4, 5, 6],
            "f": [0.5, None, 2.0],
            "t": ["a", "B", "7"],
            "u": ["x", "", "y"],
            "z": [None] * 3,
        }
    )
    assert len(expression.column(Frame(batch))) == 3


def test_expressions_refuse_what_python_would_take_wrongly() -> None:
    a = col("a")
    for wrong in (lambda: 0 < a < 5, lambda: a and col("b"), lambda: not a, lambda: a + b""):
        with pytest.raises(Usage) as caught:
            wrong()
        assert caught.value.hint


# Whole flows ---------------------------------------------------------------------------------------------------------


class Row:
    """A row of a packed batch, as far as flows look at it."""

    def __init__(self, value: bytes, key: bytes | None) -> None:
        self._value, self._key = value, key

    def value(self) -> bytes:
        return self._value

    def key(self) -> bytes | None:
        return self._key


class Source:
    """A topic, as far as flows look at it."""

    def __init__(self, declared: Any = None) -> None:
        self.key_type, self.decode_value, self.decode_key = None, codec(declared).decode, bytes.decode
        self.declared = declared


class Declared(msgspec.Struct):
    a: int
    f: float | None
    t: str
    p: bool | None = None


FIELDS = st.one_of(st.sampled_from(sorted(KINDS)), EXPRESSIONS)
STEPS = st.one_of(
    FLAGS.map(Filter),
    EXPRESSIONS.map(Filter),
    st.dictionaries(st.sampled_from(["a", "f", "new"]), FIELDS, min_size=1, max_size=2).map(WithColumns),
    st.just(Select({name: name for name in "abfgtpiq"})),
)
SIMPLE = st.sampled_from(["a", "b", "i", "f", "g", "t", "p"])


class Seen(Aggregate):
    """A user's own: all values, as text, in the order of rows; it refuses some."""

    def zero(self) -> Any:
        return []

    def add(self, state: Any, value: Any) -> Any:
        if value == 3:
            raise ValueError("three")
        state.append(bits(value))
        return state

    def merge(self, state: Any, other: Any) -> Any:
        return [*state, *other]


HOWS = st.one_of(
    st.sampled_from([sum, min, max]).map(PairReducer),
    st.lists(
        st.one_of(
            st.just(Count()),
            *(SIMPLE.map(how) for how in (Count, Sum, Min, Max, Mean, Distinct, ApproxDistinct, Seen)),
            *(EXPRESSIONS.map(how) for how in (Sum, Seen)),
            st.builds(Top, st.one_of(SIMPLE, EXPRESSIONS), st.integers(1, 3)),
        ),
        min_size=1,
        max_size=3,
    ).map(lambda hows: AggregateReducer({str(i): how for i, how in enumerate(hows)})),
)


def as_the_engine(fold: Combiner, rows: list[Row], values: list[Any]) -> tuple[dict[Any, Any], Failed]:
    """Row by row; where that raises, and nobody can tell whose it is, each record by itself and then merged."""
    try:
        return fold.each_row(rows, values)
    except Exception:
        assert not fold.how.independent
    states, failed = dict[Any, Any](), Failed()
    for number, (row, value) in enumerate(zip(rows, values, strict=True)):
        try:
            for key, state in fold.by_row([row], [value]).items():
                states[key] = fold.how.merge(states[key], state) if key in states else state
        except Exception as exc:
            failed.append((number, exc))
    return states, failed


def both_ways(fold: Combiner, batch: pa.RecordBatch, source: Source, keys: list[bytes | None] | None = None) -> bool:
    """Folds a batch both ways and compares them; whether there was a column way."""
    values = list(map(msgspec.json.encode, batch.to_pylist()))
    rows = [Row(value, key) for value, key in zip(values, keys or [None] * len(values), strict=True)]
    own = None if keys is None else pa.array([None if key is None else key.decode() for key in keys], pa.string())
    by_column = fold.by_column(batch, rows, own)
    if by_column is None:
        return False
    states, failed = as_the_engine(fold, rows, list(map(source.decode_value, values)))
    assert bits(list(by_column[0].items())) == bits(list(states.items()))
    assert sorted(row for row, _ in by_column[1]) == [row for row, _ in failed]
    assert {row: repr(error) for row, error in by_column[1]} == {row: repr(error) for row, error in failed}
    return True


@settings(max_examples=EXAMPLES, deadline=None)
@given(batches(), st.lists(STEPS, max_size=2), st.sampled_from("tuip"), st.one_of(SIMPLE, EXPRESSIONS), HOWS)
def test_a_flow_by_column_is_the_flow_by_row(
    batch: pa.RecordBatch, steps: list[Operator], key: str, value: Any, how: Any
) -> None:
    source = Source()
    left = value if isinstance(how, PairReducer) else None
    done = both_ways(Combiner(Keying(source, tuple(steps), (key, left)), how), batch, source)
    event("by column" if done else "by row")


ENTRIES = st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 3), st.sampled_from("abc")), min_size=1, max_size=12)


@settings(deadline=None)
@given(ENTRIES, st.sampled_from(["rank", "name"]), st.integers(1, 3), st.integers(0, 3))
def test_the_greatest_elements_of_a_key_are_those_that_rows_find(
    entries: list[tuple[str, int, str]], of: str, n: int, least: int
) -> None:
    """Few keys and few values: many are equal, and what else is in the elements decides."""
    batch = pa.record_batch(dict(zip(("key", "rank", "name"), map(list, zip(*entries, strict=True)), strict=True)))
    how = AggregateReducer({"best": Top(of, n), "seen": Seen(col("rank") + 4)})
    source = Source()
    assert both_ways(Combiner(Keying(source, (Filter(col("rank") >= least),), ("key", None)), how), batch, source)


@settings(deadline=None)
@given(batches(), st.data())
def test_records_own_keys_count_without_a_key_by(batch: pa.RecordBatch, data: Any) -> None:
    source, n = Source(), batch.num_rows
    keys = data.draw(st.lists(st.sampled_from([b"x", b"y", "ß".encode(), None]), min_size=n, max_size=n))
    both_ways(Combiner(Keying(source, (Map(col("i") * 2),), None), PairReducer(sum)), batch, source, keys)
    both_ways(
        Combiner(Keying(source, (Filter(col("i") > 1),), None), AggregateReducer({"n": Count(), "s": Sum("i")})),
        batch,
        source,
        keys,
    )


@settings(deadline=None)
@given(batches())
def test_columns_are_checked_against_a_declared_type(batch: pa.RecordBatch) -> None:
    """What decoding refuses, or changes (a whole number where a float is declared), comes out the same."""
    source = Source(Declared)
    for columns in ({}, {"f": batch["i"]}, {"a": batch["f"]}, {"t": batch["p"]}):
        shown = pa.record_batch({name: columns.get(name, batch[name]) for name in "aftpb"})
        fold = Combiner(Keying(source, (Filter(col("a") > 0),), ("t", "f")), PairReducer(max), Declared)
        try:
            list(map(source.decode_value, map(msgspec.json.encode, shown.to_pylist())))
        except msgspec.ValidationError:
            assert fold.by_column(shown, []) is None
        else:
            both_ways(fold, shown, source)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(batches(), min_size=1, max_size=4), st.sampled_from("tuip"), SIMPLE, HOWS)
def test_batches_that_are_grouped_as_one_give_what_their_rows_give(
    found: list[pa.RecordBatch], key: str, value: Any, how: Any
) -> None:
    fold = Combiner(
        Keying(Source(), (Filter(~col("p").is_null()),), (key, value if isinstance(how, PairReducer) else None)), how
    )
    pieces, values = Pieces(), []
    for batch in found:
        rows = list(map(msgspec.json.encode, batch.to_pylist()))
        made = fold.piece(batch, [Row(row, None) for row in rows])
        if made is None or not pieces.add(made[0]):
            event("one by one")
            continue
        values += map(msgspec.json.decode, rows)
    if pieces:
        event(f"{len(pieces)} batches")
        states, _ = fold.each_row([Row(b"", None)] * len(values), values)
        assert bits(list(fold.grouped(pieces).items())) == bits(list(states.items()))


def test_sums_that_may_leave_64_bits_together_are_not_grouped_as_one() -> None:
    fold = Combiner(Keying(Source(), (), ("key", "n")), PairReducer(sum))

    def piece(n: int) -> Any:
        made = fold.piece(pa.record_batch({"key": ["a", "b"], "n": [n, 1]}), [])
        assert made is not None
        return made[0]

    large, small = piece(2**60), piece(5)
    assert large.goes_with(Pieces([small]))
    assert not large.goes_with(Pieces([large, small, small]))
    assert fold.grouped([large, small]) == {"a": 2**60 + 5, "b": 2}
    assert fold.piece(pa.record_batch({"key": ["a"], "n": [1.5]}), []) is not None
    assert not large.goes_with(Pieces([fold.piece(pa.record_batch({"key": ["a"], "n": [1.5]}), [])[0]]))  # type: ignore[index]
    for doubtful in ([2**62, 1], [0.5, -0.0], ["x", "y"]):
        assert fold.piece(pa.record_batch({"key": ["a", "b"], "n": doubtful}), []) is None, doubtful


def test_a_usual_batch_goes_by_column_and_dirty_rows_alone_by_row() -> None:
    source = Source()
    batch = pa.record_batch(
        {"key": ["b", "a", None, "b", "c"], "amount": [0.1, 0.2, 1.0, 0.3, None], "n": [1, 2, 3, 0, 5]}
    )
    for flow, states, dirty in (
        (Keying(source, (), ("key", "amount")), {"b": 0.4, "a": 0.2}, [2, 4]),
        (Keying(source, (Filter(~col("amount").is_null()),), ("key", "n")), {"b": 1, "a": 2}, [2]),
        (Keying(source, (WithColumns({"x": 6 // col("n")}),), ("key", "x")), {"b": 6, "a": 3, "c": 1}, [2, 3]),
    ):
        fold = Combiner(flow, PairReducer(sum))
        assert fold.columnar
        assert both_ways(fold, batch, source)
        found, failed = fold.by_column(batch, [Row(msgspec.json.encode(row), None) for row in batch.to_pylist()]) or (
            {},
            [],
        )
        assert found == states
        assert sorted(row for row, _ in failed) == dirty


def test_only_fields_and_expressions_go_by_column() -> None:
    def fold(how: Any, *steps: Operator, key: Any = "k", value: Any = "v") -> bool:
        return Combiner(Keying(Source(), steps, (key, value)), how).columnar

    class Own(Sum):
        def taken(self) -> Any:
            return len

    assert fold(PairReducer(sum))
    assert fold(AggregateReducer({"n": Count()}), value=None)
    assert fold(AggregateReducer({"s": Sum(col("a") * 2)}), Select({"a": "b"}), value=None)
    assert fold(AggregateReducer({"best": Top("a", 3), "own": Seen("a")}), value=None)
    refused: list[tuple[Any, ...]] = [
        (PairReducer(lambda a, b: a),),
        (PairReducer(sum), Map(len)),
        (PairReducer(sum), FlatMap(list)),
        (PairReducer(sum), Filter(bool)),
        (PairReducer(sum), WithColumns({"a": len})),
        *((AggregateReducer({"x": how}),) for how in (Own("a"), Top(len), Seen(len), Sum(len))),
    ]
    for how, *steps in refused:
        assert not fold(how, *steps)
    assert not fold(PairReducer(sum), key=0, value=1)
    assert not fold(PairReducer(sum), value=None)
