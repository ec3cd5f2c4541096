"""Inputs of a bounded run."""

from __future__ import annotations

import pytest
from anabranch.replay.runs.inputs import parse_inputs, refuse_unaligned
from anabranch.topics.errors import Usage


def test_several_inputs_by_time_are_refused_unless_they_come_one_stage_after_the_other() -> None:
    form = {"kind": "auto", "encoding": "utf-8", "as_text": False, "headers": ()}

    def check(inputs: list[str], then: list[str], times: list[str], *, by_time: bool = False) -> None:
        made = parse_inputs(inputs, then, [], times, form)
        refuse_unaligned(made, [asked.topic or "only" for asked in made], by_time=by_time)

    check(["a=1.csv", "a=2.csv"], [], ["at"])  # one input, whose files are merged
    check(["1.csv", "2.csv"], ["b=3.csv"], ["at"], by_time=True)
    check(["a=1.csv", "b=2.csv"], [], [])
    check(["a=1.csv", "b=2.csv"], ["c=3.csv"], ["c=at"])
    for inputs, then, times, by_time in (
        (["a=1.csv", "b=2.csv"], [], ["at"], False),
        (["a=1.csv", "b=2.csv"], [], ["b=at"], False),
        (["a=1.csv", "b=2.csv"], [], [], True),
        (["c=0.csv", "a=1.csv"], ["b=2.csv"], ["a=at"], False),
    ):
        with pytest.raises(Usage, match=r"several inputs with --time[\s\S]*--then"):
            check(inputs, then, times, by_time=by_time)
    with pytest.raises(Usage, match=r"have different options[\s\S]*--input TOPIC=PATH"):
        check(["1.csv", "only=2.csv"], [], ["at"])
