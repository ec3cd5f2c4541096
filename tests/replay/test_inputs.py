"""Inputs of a bounded run."""

from __future__ import annotations

from typing import Any

import pytest
from anabranch.replay.runs.aligned_inputs import aligned_phases, refuse_uneven
from anabranch.replay.runs.inputs import parse_inputs
from anabranch.topics.errors import Usage

FORM = {"kind": "auto", "encoding": "utf-8", "as_text": False, "headers": ()}


def aligned(
    inputs: list[str], then: list[str], times: list[str], *, untimed: str = "", **options: bool
) -> dict[int, list[str]]:
    made = parse_inputs(inputs, then, [], times, FORM)
    topics = [asked.topic or "only" for asked in made]
    return aligned_phases(made, topics, [topic not in untimed.split() for topic in topics], **options)


def test_several_inputs_of_a_phase_are_aligned_if_a_time_is_asked_for() -> None:
    assert aligned(["a=1.csv", "a=2.csv"], [], ["at"]) == {}  # one input, whose files are merged
    assert aligned(["1.csv", "2.csv"], ["b=3.csv"], ["at"], by_time=True) == {}
    assert aligned(["a=1.csv", "b=2.csv"], [], []) == {}
    assert aligned(["a=1.csv", "b=2.csv"], ["c=3.csv"], ["c=at"]) == {}
    assert aligned(["b=1.csv", "a=2.csv"], [], ["at"]) == {0: ["a", "b"]}
    assert aligned(["b=1.csv", "a=2.csv"], [], [], by_time=True) == {0: ["a", "b"]}
    assert aligned(["c=0.csv", "a=1.csv"], ["b=2.csv"], ["a=at", "c=on"]) == {0: ["a", "c"]}


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (["a=1.csv", "b=2.csv"], {"untimed": "b"}, r"the records of b have no time[\s\S]*--time TOPIC=FIELD"),
        (["a=1.csv", "b=2.csv"], {"packed": True}, r"packed batches[\s\S]*omit --pack"),
        (["a=1.csv", "b=2.csv"], {"into_live": True}, r"live records[\s\S]*--then"),
        (["1.csv", "only=2.csv"], {}, r"have different options[\s\S]*--input TOPIC=PATH"),
    ],
)
def test_inputs_that_cannot_be_aligned_are_refused(inputs: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(Usage, match=message):
        aligned(inputs, [], ["at"], **options)


def test_a_topic_with_another_input_in_another_phase_is_not_aligned() -> None:
    with pytest.raises(Usage, match="b has another input in another phase"):
        aligned(["a=1.csv", "b=2.csv"], ["b=3.csv"], ["at"])


def test_topics_with_different_numbers_of_partitions_are_not_aligned() -> None:
    refuse_uneven({0: ["a", "b"]}, {"a": 4, "b": 4, "c": 3})
    with pytest.raises(Usage, match=r"a 4, b 3[\s\S]*partitions=…"):
        refuse_uneven({0: ["a", "b"]}, {"a": 4, "b": 3})
