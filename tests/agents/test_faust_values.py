"""Values that Faust wrote are read as Faust reads them, or refused; and the other way round."""

from __future__ import annotations

import json
import math
from typing import Any

import faust
import pytest
from anabranch import App
from anabranch.topics.errors import BadRecord
from faust.exceptions import ValueDecodeError

stock = faust.App("stock")


class Payment(faust.Record, namespace="test_faust_values.Payment"):
    user: str
    amount: int


def written_by_faust(value: Any, **options: Any) -> bytes:
    topic = stock.topic("shared", **options)
    return topic.prepare_value(value, None, topic.schema, {})[0]


def read_by_faust(data: bytes, value_type: Any, serializer: Any = None) -> Any:
    return stock.serializers.loads_value(value_type, data, serializer=serializer)


def test_text_that_faust_wrote_is_refused_until_the_topic_says_how_text_travels() -> None:
    app, data = App("values"), written_by_faust("vv", value_type=str)
    with pytest.raises(BadRecord, match="JSON string") as told:
        app.topic("shared", value_type=str).decode_value(data)
    assert "value_serializer" in str(told.value.hint)
    assert app.topic("shared", value_type=str, value_serializer="json").decode_value(data) == "vv"
    assert app.topic("shared", value_type=str, value_serializer="raw").decode_value(data) == '"vv"'


def test_text_in_quotes_is_not_written_where_readers_could_take_it_for_json() -> None:
    app = App("values")
    with pytest.raises(BadRecord, match="JSON string"):
        app.topic("shared", value_type=str).encode_value('"vv"')
    assert app.topic("shared", value_type=str, value_serializer="raw").encode_value('"vv"') == b'"vv"'


@pytest.mark.parametrize("text", ["vv", "", "a,1", '"a","b"', '"open', "ünicode", '{"a": 1}', "5"])
def test_other_text_travels_as_it_is(text: str) -> None:
    topic = App("values").topic("shared", value_type=str)
    assert topic.encode_value(text) == text.encode()
    assert topic.decode_value(text.encode()) == text


@pytest.mark.parametrize(("value_type", "value"), [(str, "vv"), (str, '"q"'), (None, "vv"), (None, [1]), (int, 5)])
def test_both_read_what_the_other_has_written_where_both_say_json(value_type: Any, value: Any) -> None:
    topic = App("values").topic("shared", value_type=value_type, value_serializer="json")
    data = topic.encode_value(value)
    assert data == written_by_faust(value, value_type=value_type)
    assert read_by_faust(data, value_type) == value == topic.decode_value(data)


@pytest.mark.parametrize("value_type", [str, bytes])
def test_raw_is_what_it_is_in_faust(value_type: Any) -> None:
    topic = App("values").topic("shared", value_type=value_type, value_serializer="raw")
    value = "vv" if value_type is str else b"\xff\x00"
    data = topic.encode_value(value)
    assert read_by_faust(data, value_type, "raw") == value == topic.decode_value(data)


def test_changelogs_of_declared_text_are_those_of_faust() -> None:
    app, theirs = App("values"), stock.Table("texts", key_type=str, value_type=str)
    ours = app.Table("texts", key_type=str, value_type=str)
    for text in ("ann", '"quoted"', ""):
        key, value = ours.key_codec.keep(text), ours.value_codec.keep(text)
        topic = theirs.changelog_topic
        assert key == topic.prepare_key(text, None, topic.schema, {})[0]
        assert value == topic.prepare_value(text, None, topic.schema, {})[0]
        assert (ours.key_codec.decode(key), ours.value_codec.decode(value)) == (text, text)


def test_a_number_is_no_text() -> None:
    with pytest.raises(Exception, match="Expected `str`"):
        App("values").topic("shared", value_type=str, value_serializer="json").decode_value(b"5")


def test_values_that_name_their_model_become_it_again() -> None:
    app = App("values")
    data = written_by_faust(Payment("ann", 3))
    assert b"__faust" in data
    assert read_by_faust(data, None) == Payment("ann", 3)
    topic = app.topic("shared")
    assert topic.decode_value(data) == Payment("ann", 3)
    assert topic._value.decode_all([data, b'{"a":1}', b"5"]) == [Payment("ann", 3), {"a": 1}, 5]
    assert read_by_faust(topic.encode_value(Payment("bob", 4)), None) == Payment("bob", 4)


def test_a_model_that_the_program_does_not_have_is_an_error_as_in_faust() -> None:
    data = b'{"user":"ann","__faust":{"ns":"gone.Order"}}'
    with pytest.raises(ValueDecodeError):
        read_by_faust(data, None)
    with pytest.raises(BadRecord, match=r"gone\.Order"):
        App("values").topic("shared").decode_value(data)
    assert App("values").topic("shared", value_type=dict).decode_value(data)["user"] == "ann"


@pytest.mark.parametrize("mark", [b"5", b"{}", b"null"])
def test_a_field_that_only_looks_like_a_mark_is_a_field(mark: bytes) -> None:
    data = b'{"__faust":%b}' % mark
    assert App("values").topic("shared").decode_value(data) == read_by_faust(data, None)


class Reading(faust.Record):
    degrees: float
    notes: dict = {}  # noqa: RUF012 (Faust copies nothing, and the test writes nothing)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("options", [{"value_type": Reading}, {}, {"value_type": Reading, "value_serializer": "json"}])
def test_numbers_that_json_does_not_have_are_refused_in_records_as_in_plain_values(number: float, options: Any) -> None:
    topic = App("shop").topic("readings", **options)
    for value in (Reading(degrees=number), Reading(degrees=1.0, notes={"a": [number]})):
        with pytest.raises(BadRecord, match="NaN or infinity"):
            topic.encode_value(value)
    fine = topic.encode_value(Reading(degrees=1.5, notes={"NaN": None, "text": "Infinity"}))
    assert json.loads(fine or b"")["degrees"] == 1.5


def test_a_serializer_says_whether_numbers_that_json_does_not_have_can_travel() -> None:
    app = App("shop")
    with pytest.raises(BadRecord, match="NaN or infinity"):
        app.topic("readings", value_serializer="json").encode_value({"degrees": math.nan})
    with pytest.raises(BadRecord, match="NaN or infinity"):
        app.topic("readings").encode_value({"degrees": math.nan}, serializer="json|binary")
    pickled = app.topic("readings", value_serializer="pickle")
    assert math.isnan(pickled.decode_value(pickled.encode_value({"degrees": math.nan, "null": None}))["degrees"])
    assert app.topic("readings", value_type=str, value_serializer="json").encode_value("NaN") == b'"NaN"'
