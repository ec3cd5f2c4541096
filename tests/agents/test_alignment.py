"""The order in which the records of aligned inputs are delivered, and when one waits for another."""

from __future__ import annotations

from typing import Any

import pytest
from anabranch.agents.assigned_partitions import Assignment
from anabranch.agents.engine.alignment import Alignment, WaitingRecords
from anabranch.agents.engine.partition_queue import QueuedBatch
from anabranch.agents.engine.record_queue import RecordQueue
from anabranch.agents.engine.task import TaskInput, Tasks
from anabranch.agents.tables.table import Table
from anabranch.topics.topic_partition import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

TOPICS = ("users", "orders")


class Timed:
    """A message that has only an offset and a time, which is all that an alignment uses."""

    def __init__(self, offset: int, time_ms: int) -> None:
        self._offset, self._time_ms = offset, time_ms

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 1, self._time_ms


class FakeStream:
    """A stream that has only a queue and a name, which is all that tasks use."""

    def __init__(self, name: str) -> None:
        self.queue, self.progress_name = RecordQueue(), name


class Worker:
    """A worker with one task of two topics, and the run that it belongs to."""

    def __init__(self) -> None:
        table: Table[Any, Any] = Table("totals")
        table.changelog_partitions = 4
        self.aligned, self.history_ends = [list(TOPICS)], dict[TopicPartition, int]()
        self.streams = [FakeStream(topic) for topic in TOPICS]
        self.tasks = Tasks(lambda: [table], list[Any]())
        self.tasks.group([[topic] for topic in TOPICS], {}, dict.fromkeys(TOPICS, 4))
        self.tasks.assign(Assignment({TopicPartition(topic, 0): 0 for topic in TOPICS}))
        for task in self.tasks.restored(self.tasks.restore()):
            self.tasks.run(task)
        for input, stream in zip(self.inputs, self.streams, strict=True):
            input.route([[stream]])  # pyright: ignore[reportArgumentType]
        self.alignment = Alignment(self, self.tasks)
        self.alignment.follow()

    @property
    def inputs(self) -> list[TaskInput]:
        return [self.tasks.active[TopicPartition(topic, 0)] for topic in TOPICS]

    def consume(self, topic: str, *times_ms: int) -> None:
        waiting = self.tasks.active[TopicPartition(topic, 0)].waiting
        assert waiting is not None
        waiting.add([Timed(waiting.position + number, time_ms) for number, time_ms in enumerate(times_ms)])

    def end(self, topic: str, offset: int) -> None:
        self.history_ends[TopicPartition(topic, 0)] = offset

    def next(self) -> list[tuple[str, list[int]]]:
        return [(input.at.topic, [m.timestamp()[1] for m in run]) for input, run in self.alignment.runs()]

    def all(self) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        while made := self.next():
            found += [(topic, time_ms) for topic, times in made for time_ms in times]
        return found


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_an_input_waits_until_the_other_has_a_record_or_has_ended(worker: Worker) -> None:
    worker.consume("orders", 10, 30)
    assert worker.next() == []
    worker.consume("users", 20)
    assert worker.next() == [("orders", [10])]
    assert worker.next() == [("users", [20])]
    assert worker.next() == []
    worker.end("users", 2)
    assert worker.next() == []
    worker.end("users", 1)
    assert worker.next() == [("orders", [30])]


def test_equal_times_are_in_the_order_of_the_topics_and_runs_end_there(worker: Worker) -> None:
    worker.consume("orders", 10, 20, 20, 30)
    worker.consume("users", 20, 20, 40)
    worker.end("orders", 4)
    assert worker.next() == [("orders", [10])]
    assert worker.next() == [("users", [20, 20])]
    assert worker.next() == [("orders", [20, 20, 30])]


def test_records_that_are_not_processed_hold_their_task_back(worker: Worker) -> None:
    worker.consume("orders", 10)
    worker.consume("users", 20)
    queue = worker.streams[1].queue
    queue.put(QueuedBatch(TopicPartition("orders", 0), [Timed(0, 5)], 1))
    assert worker.next() == []
    queue.take()
    queue.done()
    assert worker.next() == [("orders", [10])]


def test_a_task_that_has_lost_an_input_delivers_nothing(worker: Worker) -> None:
    worker.consume("orders", 10)
    worker.consume("users", 20)
    worker.tasks.revoke([TopicPartition("orders", 0)])
    assert worker.next() == []


def test_an_input_that_is_far_ahead_is_held_until_half_of_its_records_are_delivered(worker: Worker) -> None:
    orders = TopicPartition("orders", 0)
    worker.consume("orders", *range(100))
    assert worker.alignment.held_back(101) == set()
    assert worker.alignment.held_back(100) == {orders}
    worker.consume("users", 40)
    worker.next()
    assert worker.alignment.held_back(100) == {orders}
    worker.next()
    worker.consume("users", 60)
    worker.next()
    assert worker.alignment.held_back(100) == set()


records = st.lists(st.integers(0, 6), max_size=12)


@given(records, records, st.data())
def test_the_order_is_the_same_whatever_is_consumed_first_and_after_a_restart_anywhere(
    users: list[int], orders: list[int], data: Any
) -> None:
    def played(cut: int) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        left = {"users": list(users), "orders": list(orders)}
        worker = Worker()
        for topic, times in left.items():
            worker.end(topic, len(times))
        while True:
            made = [(topic, time_ms) for topic, times in worker.next() for time_ms in times]
            found += made
            if 0 <= cut <= len(found):
                cut = -1
                done = {topic: [one for one in found if one[0] == topic] for topic in TOPICS}
                worker = Worker()
                for topic, times in (("users", users), ("orders", orders)):
                    waiting = WaitingRecords(len(done[topic]))
                    worker.tasks.active[TopicPartition(topic, 0)].waiting = waiting
                    left[topic] = times[len(done[topic]) :]
                    worker.end(topic, len(times))
            if made:
                continue
            topics = [topic for topic, times in left.items() if times]
            if not topics:
                return found
            topic = data.draw(st.sampled_from(topics))
            count = data.draw(st.integers(1, len(left[topic])))
            worker.consume(topic, *left[topic][:count])
            del left[topic][:count]

    first = played(-1)
    assert [time_ms for topic, time_ms in first if topic == "users"] == users
    assert [time_ms for topic, time_ms in first if topic == "orders"] == orders
    assert played(data.draw(st.integers(0, len(first)))) == first
    if sorted(users) == users and sorted(orders) == orders:
        assert first == sorted(first, key=lambda one: (one[1], TOPICS.index(one[0])))
