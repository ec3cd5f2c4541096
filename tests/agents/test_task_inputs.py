"""A task gets, runs and loses its partitions as a whole where it has tables."""

from __future__ import annotations

from typing import Any

import pytest
from anabranch import App, Stream
from anabranch.agents.assigned_partitions import Assignment
from anabranch.agents.engine.partition_queue import QueuedBatch
from anabranch.agents.engine.record_queue import RecordQueue
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.engine.task import Tasks
from anabranch.agents.engine.task_states import Event, State
from anabranch.agents.runtime import runtime_of
from anabranch.agents.tables.table import Table
from anabranch.agents.task_groups import TaskId
from anabranch.topics.errors import Usage
from anabranch.topics.topic_partition import TopicPartition
from queue_records import Fake

ORDERS, REFUNDS = TopicPartition("orders", 0), TopicPartition("refunds", 0)
TASK = TaskId("tables-4", 0)


class FakeStream:
    """A stream that has only a queue and a name, which is all that tasks use."""

    def __init__(self, name: str = "total") -> None:
        self.queue, self.progress_name = RecordQueue(), name


class Worker:
    """The tasks of a worker that reads two topics and writes one table from both."""

    def __init__(self) -> None:
        table: Table[Any, Any] = Table("totals")
        table.changelog_partitions = 4
        self.table, self.streams = table, list[Any]()
        self.tasks = Tasks(lambda: [table], self.streams)
        counts = {"orders": 4, "refunds": 4, "retries": 4}
        self.tasks.group([["orders"], ["refunds"]], {"retries": "orders"}, counts)

    def assign(self, **starts: int) -> None:
        self.tasks.assign(Assignment({TopicPartition(topic, 0): start for topic, start in starts.items()}))

    def run(self) -> dict[TopicPartition, int]:
        started: dict[TopicPartition, int] = {}
        for task in self.tasks.restored(self.tasks.restore()):
            for input in task.inputs.values():
                input.is_new = False
            self.table.states.setdefault(task.id.partition, self.table.new_state())
            started |= self.tasks.run(task)
        for at in started:
            self.tasks.active[at].route([[stream] for stream in self.streams])
        return started

    def states(self) -> dict[str, State]:
        return {str(task.id): state for state in State for task in self.tasks.in_state(state)}


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_a_task_waits_until_it_has_a_partition_of_each_of_its_topics(worker: Worker) -> None:
    worker.assign(orders=5)
    assert worker.tasks.restore() == {}
    assert worker.tasks.missing() == {TASK: [REFUNDS]}
    assert worker.tasks.incomplete == {ORDERS}
    assert not worker.tasks.table_partitions()
    worker.assign(refunds=7)
    assert worker.tasks.missing() == {}
    assert worker.run() == {ORDERS: 5, REFUNDS: 7}
    assert worker.states() == {"tables-4[0]": State.RUNNING}
    assert worker.tasks.serves("totals", 0)
    assert not worker.tasks.serves("totals", 1)


def test_a_retry_topic_may_be_missing_and_comes_later(worker: Worker) -> None:
    worker.assign(orders=0, refunds=0)
    worker.run()
    worker.assign(retries=3)
    assert worker.run() == {TopicPartition("retries", 0): 3}
    assert worker.states() == {"tables-4[0]": State.RUNNING}
    assert worker.tasks.revoke({TopicPartition("retries", 0)}) == set()
    assert worker.states() == {"tables-4[0]": State.RUNNING}


def test_a_task_that_loses_one_of_its_topics_rests_at_its_last_commit(worker: Worker) -> None:
    first, second = FakeStream("first"), FakeStream("second")
    worker.streams += [first, second]
    worker.assign(orders=0, refunds=0)
    worker.run()
    for stream, progress in (first, 3), (second, 5):
        stream.queue.put(QueuedBatch(ORDERS, [Fake(offset) for offset in range(9)], 9))
        stream.queue.take()
        stream.queue.at(ORDERS).commit(progress, progress)
    worker.tasks.active[ORDERS].commit(3)

    assert worker.tasks.revoke({REFUNDS}) == {TASK}
    assert worker.states() == {"tables-4[0]": State.CREATED}
    assert worker.tasks.active == {}
    assert worker.tasks.stopped == {ORDERS}
    assert not worker.table.states, "another worker may write to it"
    assert all(not stream.queue.partitions and not stream.queue.waiting for stream in worker.streams)

    worker.assign(refunds=1)
    assert worker.run() == {ORDERS: 3, REFUNDS: 1}
    assert [stream.queue.at(ORDERS).offset for stream in worker.streams] == [3, 5]


def test_an_agent_that_begins_late_begins_at_its_own_offset(worker: Worker) -> None:
    worker.tasks.assign(Assignment({ORDERS: 90, REFUNDS: 0}, {(ORDERS, "second"): 95}))
    worker.run()
    streams: list[Any] = [FakeStream("first"), FakeStream("second")]
    worker.tasks.active[ORDERS].route([[stream] for stream in streams])
    assert [stream.queue.at(ORDERS).offset for stream in streams] == [90, 95]


@pytest.mark.parametrize(("event", "state"), [(Event.REVOKE, State.SUSPENDED), (Event.LOSE, State.POISONED)])
def test_tasks_that_end_are_forgotten_unless_they_return(worker: Worker, event: Event, state: State) -> None:
    worker.assign(orders=0, refunds=0)
    worker.run()
    assert worker.tasks.revoke({ORDERS, REFUNDS}, event) == {TASK}
    assert worker.states() == {"tables-4[0]": state}
    worker.assign(orders=1, refunds=2)
    worker.tasks.close()
    assert worker.run() == {ORDERS: 1, REFUNDS: 2}
    worker.tasks.revoke({ORDERS, REFUNDS}, event)
    worker.tasks.stand_by({TASK: next(iter(worker.tasks.table_groups))})
    worker.tasks.close(keep=[TASK])
    assert worker.states() == {"tables-4[0]": State.STANDBY}
    worker.tasks.close()
    assert worker.states() == {}


# Workers --------------------------------------------------------------------------------------------------------------


def shop() -> App:
    """An app that reads topics of 4 and of 12 partitions, with a table of 4."""
    app = App("shop")
    orders = app.topic("orders", key_type=str, value_type=int, partitions=4)
    clicks = app.topic("clicks", key_type=str, value_type=int, partitions=12)
    totals = app.Table("totals", default=int, partitions=4)
    seen = app.topic("seen", partitions=1)

    @app.agent(orders)
    async def total(stream: Stream[int]) -> None:
        async for key, value in stream.items():
            totals[str(key)] += value

    @app.agent(clicks)
    async def look(stream: Stream[int]) -> None:
        async for value in stream:
            await seen.send(value=value)

    return app


def test_a_table_partition_is_on_the_worker_of_its_own_topics_partition_only(anabranch_world: Any) -> None:
    # Ranges: worker 0 has orders 0, 1 and clicks 0 to 5, so it has partitions of number 2 and 3, but not of orders.
    world = anabranch_world(shop, workers=2)
    for number in range(40):
        world.send("orders", 1, key=f"k{number}")
        world.send("clicks", 1, key=f"k{number}")
    world.settle()
    held: list[int] = []
    for index in range(2):
        runtime = runtime_of(world.worker(index).app)
        (table,) = runtime.tables
        own = {at.partition for at in runtime.status.owned if at.topic == "orders"}
        assert set(table.states) == own
        assert all(runtime.status.serves("totals", number) == (number in own) for number in range(4))
        held += table.states
    assert sorted(held) == [0, 1, 2, 3], "no partition is held twice"
    assert world.table("totals") == {f"k{number}": 1 for number in range(40)}
    assert len(world.topic("seen").values) == 40


def test_an_agent_of_a_topic_with_other_partitions_cannot_use_the_table(anabranch_world: Any) -> None:
    def program() -> App:
        app = shop()
        totals, looked = app.tables["totals"], app.topic("looked", key_type=str, partitions=12)

        @app.agent(looked)
        async def look_up(stream: Stream[Any]) -> None:
            async for key, _ in stream.items():
                totals.get(key)

        return app

    world = anabranch_world(program)
    world.send("looked", 1, key="a")
    with pytest.raises(Usage, match="table totals: an agent of topic looked uses it, which does not have the 4 part"):
        world.settle()


@pytest.mark.parametrize(
    "settings",
    [
        EngineSettings(group_protocol="consumer", consumer_options={"group.remote.assignor": "uniform"}),
        EngineSettings(consumer_options={"partition.assignment.strategy": "range,roundrobin"}),
    ],
)
def test_topics_that_share_a_table_are_assigned_by_ranges_or_refused(
    anabranch_world: Any, settings: EngineSettings
) -> None:
    def program() -> App:
        app = App("shop", settings=settings)
        totals = app.Table("totals", default=int)

        @app.agent(app.topic("orders", "refunds", key_type=str, value_type=int))
        async def total(stream: Stream[int]) -> None:
            async for key, value in stream.items():
                totals[str(key)] += value

        return app

    world = anabranch_world(program)
    with pytest.raises(Usage, match="topics orders and refunds share table totals, and only the range assignor"):
        world.settle()
