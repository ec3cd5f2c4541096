"""Which source partitions are held back because they are far ahead of others, and until when."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from anabranch import Count, Tumbling
from anabranch.agents.assigned_partitions import Assignment
from anabranch.agents.engine import held_partitions
from anabranch.agents.engine.held_partitions import HeldPartitions, HeldRun
from anabranch.agents.engine.record_queue import RecordQueue
from anabranch.agents.engine.router import Router
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.engine.task import TaskInput, Tasks
from anabranch.agents.tables.window_table import window_contents
from anabranch.topics.memory.memory_message import MemoryMessage
from anabranch.topics.topic_partition import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

MOST = 2_000


class FakeStream:
    """A stream that has only what is looked at here."""

    def __init__(self, topic: str, max_ahead_ms: int | None) -> None:
        self.queue, self.progress_name, self.max_ahead_ms = RecordQueue(), topic, max_ahead_ms
        self.topic = SimpleNamespace(topics=[topic])


class Worker:
    """A worker that reads the partitions of a topic in streams, each of which has stream times of its own."""

    def __init__(self, partitions: int, *bounds_ms: int | None) -> None:
        self.tasks = Tasks(list, list[Any]())
        self.tasks.group([["in"]], {}, {"in": partitions})
        self.tasks.assign(Assignment({TopicPartition("in", number): 0 for number in range(partitions)}))
        for task in self.tasks.restored(self.tasks.restore()):
            self.tasks.run(task)
        self.streams = [FakeStream("in", bound_ms) for bound_ms in bounds_ms]
        for input in self.tasks.active.values():
            input.route([[stream] for stream in self.streams])  # pyright: ignore[reportArgumentType]
        self.partitions: Any = HeldPartitions(self.tasks, self.streams)  # pyright: ignore[reportArgumentType]
        self.ends: dict[int, int] = dict.fromkeys(range(partitions), 1_000_000)

    def input(self, number: int) -> TaskInput:
        return self.tasks.active[TopicPartition("in", number)]

    def at(self, number: int, time: object, *, stream: int = 0) -> None:
        state = time if isinstance(time, dict) else [time, None]
        self.streams[stream].queue.partitions[TopicPartition("in", number)].channel_state = state

    def held(self) -> dict[int, int]:
        self.partitions.moved = True
        self.partitions.look(lambda at, offset: max(0, self.ends[at.partition] - offset), MOST)
        return {at.partition: held.by.partition for at, held in self.partitions.held.items()}


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now_s = [1_000.0]
    monkeypatch.setattr(held_partitions.clock, "now_s", lambda: now_s[0])
    return now_s


def test_partitions_that_are_too_far_ahead_wait_until_half_of_the_distance_is_left() -> None:
    worker = Worker(3, 100)
    worker.at(0, 0)
    worker.at(1, 100)
    worker.at(2, 101)
    assert worker.held() == {2: 0}
    worker.at(0, 50)
    assert worker.held() == {2: 0}
    worker.at(0, 51)
    assert worker.held() == {}
    worker.at(2, 151)
    assert worker.held() == {}


def test_nothing_waits_for_a_partition_that_is_nearly_at_its_end_or_has_not_been_fetched() -> None:
    worker = Worker(3, 100)
    for end in (0, 1_000, -1_001):
        worker.ends[0] = end
        worker.at(0, None)
        worker.at(1, 500)
        worker.at(2, 1_000)
        assert worker.held() == {2: 1}
    worker.ends[0] = 1_001
    assert worker.held() == {1: 0, 2: 0}
    worker.at(0, "end")
    assert worker.held() == {2: 1}


def test_few_packed_batches_are_many_records() -> None:
    worker = Worker(2, 100)
    worker.ends[0] = 3
    worker.at(0, 0)
    worker.at(1, 500)
    assert worker.held() == {}
    worker.input(0).rows_each = 400
    assert worker.held() == {1: 0}


def test_a_partition_that_has_ended_is_not_held() -> None:
    worker = Worker(2, 100)
    worker.at(0, 0)
    worker.at(1, "end")
    assert worker.held() == {}


def test_of_several_times_the_least_counts() -> None:
    worker = Worker(2, 100)
    worker.at(0, {"times": {"at": [0, None], "by": [900, None]}})
    worker.at(1, {"times": {"at": [500, None], "by": ["end", None]}})
    assert worker.held() == {1: 0}


def test_streams_without_a_bound_hold_nothing() -> None:
    worker = Worker(2, None)
    worker.at(0, 0)
    worker.at(1, 500)
    assert worker.held() == {}


def test_a_partition_that_waits_for_a_retry_is_not_waited_for() -> None:
    worker = Worker(2, 100, None)
    worker.at(0, 0)
    worker.at(1, 500)
    assert worker.held() == {1: 0}
    other = worker.streams[1].queue.partitions[TopicPartition("in", 0)]  # another agent's
    other.retries.until_s = 2_000.0
    assert worker.held() == {}
    other.retries.until_s = None
    assert worker.held() == {1: 0}


def test_aligned_partitions_are_left_out() -> None:
    worker = Worker(3, 100)
    for number, time_ms in enumerate((0, 200, 500)):
        worker.at(number, time_ms)
    aligned: Any = object()
    worker.input(0).waiting = aligned
    assert worker.held() == {2: 1}
    worker.input(2).waiting = aligned
    assert worker.held() == {}


def test_a_partition_whose_time_moves_no_faster_than_the_clock_is_waited_for_only_from_time_to_time(
    now_s: list[float],
) -> None:
    worker = Worker(2, 100)
    worker.at(1, 1_000_000_000)
    waits: list[bool] = []
    for second in range(160):
        now_s[0] = 1_000.0 + second
        worker.at(0, second * 999)
        waits.append(bool(worker.held()))
    assert waits[:10] == [True] * 10
    assert waits[10:70] == [False] * 60
    assert waits[70:80] == [True] * 10
    assert sum(waits) <= 30


def test_a_partition_that_is_read_faster_than_the_clock_is_waited_for_as_long_as_it_takes(now_s: list[float]) -> None:
    worker = Worker(2, 100)
    worker.at(1, 1_000_000_000)
    for second in range(300):
        now_s[0] = 1_000.0 + second
        worker.at(0, second * 1_001)
        assert worker.held() == {1: 0}


def test_the_patience_begins_anew_when_a_partition_is_the_slowest_again(now_s: list[float]) -> None:
    worker = Worker(2, 100)
    worker.at(0, 0)
    worker.at(1, 500)
    assert worker.held() == {1: 0}
    worker.at(0, 500)
    now_s[0] += 9
    assert worker.held() == {}
    worker.at(1, 900)
    now_s[0] += 9
    assert worker.held() == {1: 0}


def test_many_partitions_that_are_stuck_hold_others_no_longer_than_one(now_s: list[float]) -> None:
    worker = Worker(9, 100)
    worker.at(8, 1_000)
    waits: list[bool] = []
    for second in range(300):
        now_s[0] = 1_000.0 + second
        for number in range(8):
            worker.at(number, number)
        waits.append(bool(worker.held()))
    assert waits[:10] == [True] * 10
    assert sum(waits) <= 50


def test_a_partition_that_is_held_itself_is_waited_for_afterwards(now_s: list[float]) -> None:
    worker = Worker(3, 100)
    for number, time_ms in enumerate((0, 50_000, 100_000)):
        worker.at(number, time_ms)
    for second in range(30):
        now_s[0] = 1_000.0 + second
        worker.at(0, second * 1_001)
        assert worker.held() == {1: 0, 2: 0}
    worker.at(0, 60_000)
    assert worker.held() == {0: 1, 2: 1}


def test_partitions_that_agents_see_in_opposite_orders_do_not_wait_for_each_other() -> None:
    worker = Worker(2, 100, 100)
    worker.at(0, 0)
    worker.at(1, 500)
    assert worker.held() == {1: 0}
    worker.at(0, 500, stream=1)
    worker.at(1, 450, stream=1)
    assert worker.held() == {1: 0}
    worker.at(1, 0, stream=1)
    assert worker.held() == {}


times = st.one_of(st.none(), st.just("end"), st.integers(0, 60))


@given(
    st.lists(st.lists(times, min_size=4, max_size=4), min_size=1, max_size=3),
    st.lists(st.sampled_from([0, 900, 5_000]), min_size=4, max_size=4),
    st.integers(0, 3),
)
def test_each_partition_that_waits_does_so_for_one_that_is_read(
    states: list[list[object]], unread: list[int], steps: int
) -> None:
    worker = Worker(4, *[20] * len(states))
    worker.ends = dict(enumerate(unread))
    held: dict[int, int] = {}
    for step in range(steps + 1):
        for stream, of_stream in enumerate(states):
            for number, time in enumerate(of_stream):
                moved = time + step * 7 if isinstance(time, int) and number not in held else time
                worker.at(number, moved, stream=stream)
        held = worker.held()
        for number, by in held.items():
            assert by not in held
            assert worker.ends[by] > 1_000
            assert number != by


def run(begin: int, count: int) -> HeldRun:
    return HeldRun(list(range(begin, begin + count)), some_headers=False, some_packed=False)


def test_records_wait_in_their_order_and_pause_their_partition_until_half_of_them_is_left() -> None:
    worker = Worker(2, 100)
    worker.at(0, 0)
    worker.at(1, 500)
    partitions, input = worker.partitions, worker.input(1)
    assert not partitions.keeps(input)
    assert worker.held() == {1: 0}
    for begin in range(0, 4_000, 500):
        assert partitions.keeps(input)
        partitions.add(input, run(begin, 500), 10)
        assert partitions.paused() == ({input.at} if begin >= 1_500 else set())
    assert list(partitions.released()) == []
    assert partitions.records_of(input.at) == 4_000
    assert partitions.without_waiting({input.at: 7, worker.input(0).at: 8}) == {worker.input(0).at: 8}
    worker.at(0, 500)
    assert worker.held() == {}
    (first,) = partitions.released()
    assert first == (input, run(0, 2_000))
    assert partitions.keeps(input), "what follows comes behind what waits"
    assert partitions.paused() == {input.at}
    ((_, second),) = partitions.released()
    assert second == run(2_000, 2_000)
    assert partitions.paused() == set()
    assert not partitions.keeps(input)
    assert list(partitions.released()) == []


def test_records_with_large_values_pause_their_partition_too() -> None:
    worker = Worker(2, 100)
    worker.partitions.add(worker.input(1), run(0, 1), 5_000_000)
    assert worker.partitions.paused() == {worker.input(1).at}


def test_what_waits_of_a_partition_that_is_revoked_is_forgotten() -> None:
    worker = Worker(2, 100)
    input = worker.input(1)
    worker.partitions.add(input, run(0, 5), 10)
    worker.tasks.revoke([input.at])
    assert list(worker.partitions.released()) == []
    assert worker.partitions.records_of(input.at) == 0
    assert worker.partitions.without_waiting({input.at: 7}) == {input.at: 7}


def test_the_memory_of_an_epoch_is_that_of_records_that_were_delivered_not_of_those_that_wait() -> None:
    worker = Worker(2, 100)
    worker.at(0, 0)
    worker.at(1, 500)
    router: Any = Router(worker.tasks, worker.streams)  # pyright: ignore[reportArgumentType]
    worker.partitions = router.ahead
    for input in worker.tasks.active.values():
        input.route([[]])  # no stream has begun to iterate
    assert worker.held() == {1: 0}
    router.deliver([of_kafka(1, offset) for offset in range(3)], one_topic=True)
    assert router.gathered_bytes == 0
    router.deliver([of_kafka(0, 0)], one_topic=True)
    each = router.gathered_bytes
    assert each > 0
    router.begin_epoch()
    worker.at(0, 500)
    router.ahead.moved = True
    assert router.deliver_released(lambda at, offset: 0, MOST)
    assert router.gathered_bytes == 3 * each


def of_kafka(partition: int, offset: int) -> MemoryMessage:
    return MemoryMessage("in", partition, offset, value=b"value")  # pyright: ignore[reportCallIssue]


async def test_a_sparse_partition_waits_for_a_dense_one_and_nothing_is_lost(lab, record, monkeypatch) -> None:
    count, topic = 15_000, lab.topic(2)
    spacing_s = (100, 1)
    lab.produce(
        topic,
        (
            record(str(number * spacing_s[partition]), str(partition), partition=partition)
            for number in range(count)
            for partition in range(2)
        ),
    )
    settings = EngineSettings(session_timeout_ms=6_000, batch_records=500)
    app = lab.app(lab.fresh("app"), settings=settings)
    source = app.topic(topic, time=int, time_unit="s", grace=0, max_jump=None, idle_after=None)
    counts = source.flow().key_by(lambda value: value % 7).window(Tumbling("1h")).aggregate("counts", n=Count())
    read: list[tuple[int, int]] = []
    look = HeldPartitions.look

    def spied(self: HeldPartitions, unread: Any, most: int) -> None:
        look(self, unread, most)
        for stream in self._streams:
            if stream.max_ahead_ms is not None and len(stream.queue.partitions) == 2:
                sparse, dense = (stream.queue.partitions[TopicPartition(topic, number)].offset for number in range(2))
                read.append((sparse, dense))

    monkeypatch.setattr(HeldPartitions, "look", spied)

    def rows() -> dict[Any, int]:
        contents = window_contents(counts.table).values()
        return {key[:2]: row["n"] for content in contents for key, row in content.committed_items()}

    async with lab.running(app):
        await lab.caught_up(topic, app)
        await lab.until(lambda: sum(rows().values()) == 2 * count)
        found = rows()
    # 20 windows are 720 of its records; it has read them and some polls when the dense one has only 1,000 left.
    assert max(sparse for sparse, dense in read if dense < count - 1_000) < 8_000
    expected = Counter(
        (value % 7, value // 3_600 * 3_600_000) for spacing in spacing_s for value in range(0, count * spacing, spacing)
    )
    assert found == expected
