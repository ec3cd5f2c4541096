"""The tables at the head of `docs/flows.md`: each line gives the result that it says, by row and by column."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import inf, nan
from pathlib import Path
from typing import Any

import anabranch
import msgspec
import pyarrow as pa
import pytest
from anabranch import ApproxDistinct, Count, Distinct, Max, Mean, Min, Sum, Top, col, pseudonym
from anabranch.agents.flows.aggregates import Aggregate
from anabranch.agents.flows.column_evaluation import Frame
from anabranch.agents.flows.combiner import Combiner
from anabranch.agents.flows.expressions import FUNCTIONS, OPERATORS, NotVectorizable
from anabranch.agents.flows.operators import Keying
from anabranch.agents.flows.reducers import BUILTINS, AggregateReducer, PairReducer
from test_columnar_flows import Row, Source, bits

PAGE = Path(anabranch.__file__).parent / "docs" / "flows.md"
NAMES: dict[str, Any] = {
    "col": col,
    "inf": inf,
    "nan": nan,
    "sum": sum,
    "min": min,
    "max": max,
    "pseudonym": pseudonym,
    **{of.__name__: of for of in (ApproxDistinct, Count, Distinct, Max, Mean, Min, Sum, Top)},
}
WAYS = ("column", "row", "batch")


@pytest.fixture(autouse=True)
def example_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_KEY", "an example, not a secret")


MORE_ROWS = 2  # a batch of one row and a batch of several are the same


def lines(first: str) -> Iterator[tuple[str, str, str, str]]:
    """The lines of the table whose first column has this name; an empty cell repeats the one above."""
    _, _, table = PAGE.read_text().partition(f"\n| {first} |")
    above = ""
    for line in table.split("\n\n")[0].splitlines()[2:]:
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        above = cells[0] or above
        yield above.strip("`"), cells[1].strip("`"), cells[2], cells[3]


def value(text: str) -> Any:
    return eval(text.strip("`"), dict(NAMES))


EXPRESSIONS, REDUCTIONS = list(lines("expression")), list(lines("reduction"))


def test_the_tables_have_each_operator_function_and_aggregate() -> None:
    written = " ".join(text for text, *_ in EXPRESSIONS)
    symmetric = {"-", "<=", ">", ">="}  # as + and <
    assert [sign for sign in OPERATORS if f" {sign} " not in written and sign not in symmetric] == []
    calls = [f".{name}(" if name.isidentifier() else f"{name}col" for name in FUNCTIONS if name != "pseudonym"]
    assert [call for call in (*calls, "pseudonym(") if call not in written] == []
    reduced = {re.match(r"\w+", text)[0] for text, *_ in REDUCTIONS}  # type: ignore[index]
    assert reduced == {how.__name__ for how in BUILTINS} | {how.__name__ for how in (ApproxDistinct, *_known())}
    assert {way for *_, way in (*EXPRESSIONS, *REDUCTIONS)} == set(WAYS)


def _known() -> set[type]:
    return {of for of in Aggregate.__subclasses__() if of.__module__ == Aggregate.__module__}


@pytest.mark.parametrize(("text", "element", "result", "way"), EXPRESSIONS)
def test_an_expression_gives_what_the_page_says(text: str, element: str, result: str, way: str) -> None:
    expression, fields = value(text), value(element)
    error = None if result.startswith("`") else result
    fields = msgspec.json.decode(msgspec.json.encode(fields)) if "2**63" not in element else fields
    if error is None:
        assert bits(expression(fields)) == bits(value(result))
    else:
        with pytest.raises(Exception) as caught:
            expression(fields)
        assert caught.type.__name__ == error
    try:
        column = expression.column(Frame(pa.RecordBatch.from_pylist([fields] * MORE_ROWS)))
    except NotVectorizable:
        assert way == "batch"
        return
    assert way == ("row" if column.bad.any() else "column")
    assert bool(column.bad.all()) == (error is not None)
    if error is None:
        values = column.texts.to_pylist() if column.kind == "text" else column.numbers.tolist()
        found = [None if null else each for each, null in zip(values, column.null.tolist(), strict=True)]
        assert bits(found) == bits([value(result)] * MORE_ROWS)


@pytest.mark.parametrize(("text", "values", "result", "way"), REDUCTIONS)
def test_a_reduction_gives_what_the_page_says(text: str, values: str, result: str, way: str) -> None:
    how, rows = value(text), [{"x": x, "key": "k"} for x in value(values)]
    aggregate = isinstance(how, Aggregate)
    reducer = AggregateReducer({"r": how}) if aggregate else PairReducer(how)
    combiner = Combiner(Keying(Source(), (), ("key", None if aggregate else "x")), reducer)

    def shown(states: dict[Any, Any]) -> Any:
        found = reducer.stored(states["k"])["r"] if isinstance(reducer, AggregateReducer) else states["k"]
        # An element of `Top` is the whole element.
        return [{"x": each["x"]} for each in found] if isinstance(how, Top) else found

    states, failed = combiner.each_row([Row(b"", None)] * len(rows), rows)
    if result.startswith("`"):
        assert bits(shown(states)) == bits(value(result)) and failed == []
    else:
        assert {type(error).__name__ for _, error in failed} == {result} and len(states) < len(rows)
    done = combiner.by_column(pa.RecordBatch.from_pylist(rows), [Row(msgspec.json.encode(row), None) for row in rows])
    if done is None:
        assert way == "batch"
        return
    assert way == ("row" if done[1] else "column")
    assert bits(done[0]) == bits(states)
    assert [(row, type(error)) for row, error in done[1]] == [(row, type(error)) for row, error in failed]
