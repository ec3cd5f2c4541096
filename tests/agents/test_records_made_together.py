"""Records that are made together, as for windows that close at once, are those that would be made one by one."""

from __future__ import annotations

import math
from typing import Any

import anabranch
import pytest
from anabranch.topics.errors import BadRecord

VALUES: list[Any] = [{"n": 1, "of": {"a": [1.5, "\n"]}}, {"n": None}, {}, {"text": "null"}]


@pytest.mark.parametrize("value_type", [None, dict])
@pytest.mark.parametrize(
    "values", [VALUES, VALUES[:1] * 3, [*VALUES, b"raw", None, 7]], ids=["dicts", "plain", "mixed"]
)
def test_records_made_together_are_those_made_one_by_one(value_type: Any, values: list[Any]) -> None:
    topic: Any = anabranch.App("records").topic("t", value_type=value_type)
    if value_type is dict:
        values = [value for value in values if value != 7]
    keys: list[Any] = ["ann", 1.0, ("ann", 2), b"raw", None, 7, "zoe"][: len(values)]
    times = list(range(1, len(values) + 1))
    expected = [
        topic.output(topic.encode_key(key), topic.encode_value(value), at_ms)
        for key, value, at_ms in zip(keys, values, times, strict=True)
    ]
    assert topic.records(keys, values, times) == expected


def test_one_that_json_would_write_as_null_is_refused() -> None:
    topic: Any = anabranch.App("records").topic("t")
    with pytest.raises(BadRecord, match="NaN"):
        topic.records(["a", "b"], [{"n": 1.0}, {"n": math.nan}], [1, 2])


def test_one_that_is_too_large_is_refused() -> None:
    app = anabranch.App("records", producer_max_request_size=10_000)
    topic: Any = app.topic("t")
    with pytest.raises(BadRecord, match="over"):
        topic.records(["a", "b"], [{"n": 1}, {"n": "x" * 20_000}], [1, 2])
