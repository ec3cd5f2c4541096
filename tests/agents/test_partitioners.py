"""What agents send to a topic that is spread by range lies where its partitioner says."""

from __future__ import annotations

import re
from typing import Any

import pytest
from anabranch import App
from anabranch.topics.errors import Usage
from anabranch.topics.partitioners import RangePartitioner

PARTITIONER = RangePartitioner.parsed("g,p")
WORDS = ["apple", "fig", "grape", "kiwi", "orange", "pear", "quince"]


async def test_agents_keep_to_a_partitioner_that_they_declare_and_to_one_they_find(lab, drain) -> None:
    source, ranged = lab.topic(1), lab.fresh("ranged")
    first = lab.app(lab.fresh("first"))
    target = first.topic(ranged, value_type=str, partitioner=PARTITIONER)

    @first.agent(first.topic(source, value_type=str))
    async def copy(stream):
        async for word in stream:
            await target.send(key=word, value=word)

    lab.produce(source, WORDS)
    async with lab.running(first):
        await lab.caught_up(source, first)
    assert {m.value().decode(): m.partition() for m in drain(ranged)} == {
        w: PARTITIONER.partition(w.encode()) for w in WORDS
    }

    second = lab.app(lab.fresh("second"), topic_allow_declare=False)
    found = second.topic(ranged, value_type=str)  # it does not say how and may make nothing, so it takes what it finds

    @second.agent(second.topic(source, value_type=str))
    async def shout(stream):
        async for word in stream:
            await found.send(key=word, value=word.upper())

    async with lab.running(second):
        await lab.caught_up(source, second)
    upper = [m for m in drain(ranged) if m.value().isupper()]
    assert [m.partition() for m in upper] == [PARTITIONER.partition(m.key()) for m in upper]
    assert len(upper) == len(WORDS)


async def test_another_partitioner_than_the_topic_s_ends_the_worker(lab) -> None:
    ranged = lab.fresh("ranged")
    apps = [lab.app(lab.fresh("app")) for _ in range(2)]
    for app, partitioner in zip(apps, (PARTITIONER, RangePartitioner.parsed("h,p")), strict=True):

        @app.agent(app.topic(ranged, value_type=str, partitioner=partitioner))
        async def read(stream):
            async for _ in stream:
                pass

    async with lab.running(apps[0]):
        pass
    error = await lab.stopped_by(apps[1])
    assert isinstance(error, Usage)
    assert "is partitioned by range:g,p, not by range:h,p" in str(error)


@pytest.mark.parametrize("splits", [("g",), [b"g"], b"gp", "gp"], ids=repr)
def test_split_points_that_are_not_bytes_are_refused(splits: Any) -> None:
    # They were written for all programs of the cluster, and none could start any more.
    with pytest.raises(Usage, match="expected a tuple of bytes"):
        RangePartitioner(splits)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"partitioner": PARTITIONER, "partitions": 4}, "topic words: partitions=4, but range:g,p has 3"),
        ({"partitioner": "range:g,p"}, "topic words: partitioner='range:g,p': expected a RangePartitioner"),
        ({"partitions": 0}, "topic words: partitions=0: expected a whole number above 0"),
        ({"partitions": "8"}, "topic words: partitions='8': expected a whole number above 0"),
        ({"partitions": True}, "topic words: partitions=True: expected a whole number above 0"),
    ],
)
def test_partitions_that_a_topic_cannot_have_are_refused(options: Any, reason: str) -> None:
    with pytest.raises(Usage, match=re.escape(reason)):
        App("shop").topic("words", **options)


def test_a_partitioner_may_stand_beside_its_number_of_partitions() -> None:
    topic = App("shop").topic("words", partitioner=PARTITIONER, partitions=3)
    assert topic.partitions == 3


def test_no_partitions_as_the_app_s_default_are_refused() -> None:
    with pytest.raises(Usage, match="topic_partitions=0"):
        App("shop", topic_partitions=0).finalize()
