"""Agent offsets are stored in the metadata of committed offsets, and metadata of other programs is ignored."""

from __future__ import annotations

import json

import pytest
from anabranch.agents.engine.committed_offsets import MAX_METADATA_BYTES, offsets_to_commit, read_agent_offsets
from anabranch.topics.errors import Stop
from anabranch.topics.topic_partition import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

P0, P1 = TopicPartition("orders", 0), TopicPartition("orders", 1)

marks = st.dictionaries(st.text(max_size=20), st.integers(0, 2**63 - 1), max_size=5)


@given(marks, marks)
def test_marks_come_back_as_they_were_written(first: dict[str, int], second: dict[str, int]) -> None:
    ahead = {(P0, agent): mark for agent, mark in first.items()} | {(P1, agent): mark for agent, mark in second.items()}
    written = offsets_to_commit({P0: 3, P1: 4}, ahead)
    assert [(o.topic, o.partition, o.offset) for o in written] == [("orders", 0, 3), ("orders", 1, 4)]
    assert [read_agent_offsets(o.metadata) for o in written] == [first, second]


def test_without_an_agent_that_is_further_there_is_no_metadata() -> None:
    (offset,) = offsets_to_commit({P0: 3}, {})
    assert not offset.metadata


def test_marks_of_partitions_that_are_not_committed_are_left_out() -> None:
    (offset,) = offsets_to_commit({P0: 3}, {(P1, "total"): 9})
    assert not offset.metadata


FOREIGN = [
    None,
    "",
    "text",
    "{",
    "\0",
    "[]",
    "7",
    '"agents"',
    "{}",
    '{"agents": null}',
    '{"agents": [1]}',
    '{"agents": {"a": null}}',
    '{"agents": {"a": "b"}}',
    '{"agents": {"a": {}}}',
    '{"agents": {"a": NaN}}',
    '{"agents": {"a": Infinity}}',
    "[" * 100_000,
]


@pytest.mark.parametrize("metadata", FOREIGN, ids=lambda text: repr(text)[:24])
def test_metadata_of_other_programs_gives_nothing(metadata: str | None) -> None:
    assert read_agent_offsets(metadata) == {}


@given(st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_no_metadata_at_all_makes_reading_fail(metadata: str) -> None:
    assert read_agent_offsets(metadata) == {}


def test_as_much_as_kafka_takes_is_written_and_more_is_refused() -> None:
    bare = len(json.dumps({"agents": {"": 7}}, separators=(",", ":")))
    fits = "a" * (MAX_METADATA_BYTES - bare)
    (offset,) = offsets_to_commit({P0: 3}, {(P0, fits): 7})
    assert len(offset.metadata.encode()) == MAX_METADATA_BYTES
    with pytest.raises(Stop, match="orders: too many agents on one topic"):
        offsets_to_commit({P0: 3}, {(P0, fits + "a"): 7})


def test_what_is_counted_is_bytes() -> None:
    with pytest.raises(Stop):
        offsets_to_commit({P0: 3}, {(P0, "ü" * (MAX_METADATA_BYTES // 2)): 7})
