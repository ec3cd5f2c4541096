"""Field expressions: their values, and everything that they refuse."""

from __future__ import annotations

import pytest
from anabranch.replay.sources.field_expression import as_bytes, expression
from anabranch.topics.errors import Usage
from hypothesis import given
from hypothesis import strategies as st

RECORD = {"carrier": "UA", "flight": 15, "f": 1.5, "late": False, "none": None, "a": {"b": {"c": [1, "x"]}}, "odd n": 3}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("carrier", "UA"),
        ("a.b.c", [1, "x"]),
        ("a.b.c[1]", "x"),
        ('carrier + "-" + flight', "UA-15"),
        ('f"{carrier}-{flight:04d}"', "UA-0015"),
        ("flight + 1", 16),
        ("flight % 4 * 2 - 1", 5),
        ("-flight // 4", -4),
        ("carrier.lower()[:1]", "u"),
        ('" x ".strip().upper()', "X"),
        ('carrier.replace("U", "D")', "DA"),
        ('field("odd n") + f', 4.5),
        ("flight > 10 and not late", True),
        ('carrier in ("AA", "UA")', True),
        ("none is None", True),
        ('"big" if flight > 100 else "small"', "small"),
        ('int("7") + len(carrier)', 9),
        ("a.b is not null", True),
    ],
)
def test_it_says(text: str, value: object) -> None:
    assert expression(text)(RECORD) == value


def test_a_plain_name_is_a_field_whatever_python_would_make_of_it() -> None:
    for name in ("user-id", "@timestamp", "class", "größe", "a$b"):
        assert expression(name)({name: 1}) == 1
    assert expression("dep time", ("dep time",))({"dep time": 5}) == 5
    assert expression("a.b", ("a.b",)).path == ("a.b",)
    assert expression("carrier + origin").fields == {"carrier", "origin"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b",
        "(",
        "__import__('os').system('true')",
        "carrier.__class__ + 'x'.format(1)",
        "[x for x in carrier]",
        "(lambda: 1)()",
        "2 ** 9 ** 9",
        "f'{carrier!r}'",
        "f'{carrier:>1000000000}'",
        "carrier.join(a)",
        "open('x')",
        "a := 1",
        "b'x' + a",
        "a[::2]",
        "str(a, b)",
        "field(a)",
        "carrier.lower(x=1)",
        "(" * 500 + "a" + ")" * 500,
        "a + " * 400 + "a",
    ],
)
def test_it_refuses(text: str) -> None:
    with pytest.raises(Usage):
        expression(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nope", "no field 'nope'; fields: carrier"),
        ("a.b.d", "no field 'd'; fields: c"),
        ("carrier.x.y", "the value is not an object"),
        ('none + "x"', "null cannot be concatenated"),
        ("carrier * 3", "expected a number"),
        ("flight / 0", "division by zero"),
        ("flight.lower()", "lower"),
        ("carrier < 3", "not supported"),
        ("a.b.c[9]", "out of range"),
        ("flight[:1]", "only text can be sliced"),
    ],
)
def test_what_does_not_fit_a_record_is_that_record_s_fault(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("'", ".")):
        expression(text)(RECORD)


@given(st.text(max_size=40))
def test_any_text_is_an_expression_or_refused_and_any_value_or_a_fault(text: str) -> None:
    try:
        said = expression(text)
    except Usage:
        return
    try:
        said(RECORD)
    except ValueError:
        return


def test_values_as_keys() -> None:
    values = ["é", 7, 1.50, True, None, b"\xff"]
    assert [as_bytes(value) for value in values] == ["é".encode(), b"7", b"1.5", b"true", None, b"\xff"]
    with pytest.raises(ValueError, match="object"):
        as_bytes({})
