"""The outputs of a task can be taken out of the outbox."""

from __future__ import annotations

from typing import Any

import pytest
from anabranch.agents.engine.outbox import Outbox
from anabranch.topics.output import Output
from anabranch.topics.topic_partition import TopicPartition

P0, P1 = TopicPartition("orders", 0), TopicPartition("orders", 1)
SENT = (("a", P0), ("b", P0), ("c", P1), ("d", P0), ("e", None), ("f", P1))


def outbox(*sent: tuple[str, TopicPartition | None]) -> Outbox:
    made = Outbox()
    for value, at in sent:
        made.add(Output("out", value.encode(), None, -1, None, None), at)
    return made


def values(box: Outbox) -> str:
    return b"".join(output.value or b"" for output in box.outputs).decode()


@pytest.mark.parametrize(("dropped", "left"), [({P0}, "cef"), ({P1}, "abde"), ({P0, P1}, "e"), (set(), "abcdef")])
def test_the_outputs_of_some_partitions_are_dropped(dropped: set[Any], left: str) -> None:
    box = outbox(*SENT)
    box.drop_from(dropped)
    assert values(box) == left
    box.add(Output("out", b"g", None, -1, None, None), P0)
    box.drop_from({P0})
    assert values(box) == "".join(value for value, at in SENT if value in left and at != P0)


def test_outputs_without_a_partition_are_of_no_task() -> None:
    box = outbox(("a", None), ("b", P0))
    box.drop_from({P0})
    assert values(box) == "a"


def test_what_was_truncated_is_forgotten() -> None:
    box = outbox(*SENT)
    box.truncate(3)
    box.add(Output("out", b"x", None, -1, None, None), P1)
    box.drop_from({P1})
    assert values(box) == "ab"
    box.truncate(0)
    box.add(Output("out", b"y", None, -1, None, None), P0)
    box.drop_from({P0})
    assert values(box) == ""
