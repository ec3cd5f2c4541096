"""Start offsets of a group that begins at the ends of its topics (`consumer_auto_offset_reset="latest"`)."""

from __future__ import annotations

from typing import Any

from anabranch.topics.errors import Stop
from anabranch.topics.producer import TransactionalProducer
from confluent_kafka.admin import NewPartitions


def reading(lab: Any, name: str, topic: str, seen: list[int], **options: Any) -> Any:
    app = lab.app(name, consumer_auto_offset_reset="latest", **options)

    @app.agent(app.topic(topic, value_type=int), name="reader")
    async def reader(stream):
        async for value in stream:
            seen.append(value)

    return app


async def test_what_comes_after_the_first_start_is_read_though_it_was_idle(lab: Any, record: Any) -> None:
    #  0: 10 records ▼ first start, idle, end ▼ 5 records  ▶ second start
    #  1: none       ▼                        ▼ 5 records  ▶
    topic, name, seen = lab.topic(2), lab.fresh("app"), []
    lab.produce(topic, [record(i, None, partition=0) for i in range(10)])
    async with lab.running(reading(lab, name, topic, seen)):
        pass
    assert {p: offset for p, (offset, _) in lab.committed(name, topic).items()} == {0: 10, 1: 0}
    lab.produce(topic, [record(100 + i, None, partition=i % 2) for i in range(10)])
    app = reading(lab, name, topic, seen)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert sorted(seen) == list(range(100, 110))


async def test_a_partition_that_is_added_later_is_read_from_its_beginning(lab: Any, record: Any) -> None:
    topic, name, seen = lab.topic(1), lab.fresh("app"), []
    lab.produce(topic, range(10))
    async with lab.running(reading(lab, name, topic, seen)):
        pass
    admin = lab.cluster.admin()
    admin.create_partitions([NewPartitions(topic, 2)])[topic].result()
    await lab.until(lambda: lab.admin.partitions([topic])[topic] == 2, "the partition is there")
    lab._producer = None  # the one there is knows of one until it asks again
    lab.produce(topic, [record(100 + i, None, partition=1) for i in range(5)])
    app = reading(lab, name, topic, seen)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert seen == list(range(100, 105))


async def test_workers_that_start_at_once_agree_on_where_the_group_begins(lab: Any, record: Any) -> None:
    topic, name, seen = lab.topic(4), lab.fresh("app"), []
    lab.produce(topic, [record(i, None, partition=i % 4) for i in range(40)])
    apps = [reading(lab, name, topic, seen, worker=worker) for worker in "ab"]
    async with lab.running(*apps):
        await lab.until(lambda: len(lab.committed(name, topic)) == 4, "offsets of all partitions")
        assert {offset for offset, _ in lab.committed(name, topic).values()} == {10}
        lab.produce(topic, [record(100 + i, None, partition=i % 4) for i in range(40)])
        await lab.caught_up(topic, *apps)
    assert sorted(seen) == list(range(100, 140))


async def test_a_transaction_that_is_open_at_the_first_start_counts_as_later(lab: Any) -> None:
    topic, name, seen = lab.topic(), lab.fresh("app"), []
    lab.produce(topic, range(3))
    writer = TransactionalProducer(lab.cluster, lab.fresh("id"), transaction_timeout_ms=120_000)
    writer.open()
    writer.begin()
    writer.produce(topic, b"100")
    writer.flush()
    async with lab.running(reading(lab, name, topic, seen)):
        pass
    assert lab.committed(name, topic)[0][0] == 3
    writer.commit()
    writer.close()
    app = reading(lab, name, topic, seen)
    async with lab.running(app):
        await lab.until(lambda: seen == [100], "the record of the transaction")


async def test_what_an_app_sends_to_itself_is_read_from_the_first_record(lab: Any) -> None:
    topic, name, seen = lab.topic(2), lab.fresh("app"), []
    app = lab.app(name, consumer_auto_offset_reset="latest")

    @app.agent(app.topic(topic, value_type=int), name="grouper")
    async def grouper(stream):
        async for value in stream.group_by(lambda value: value % 7, name="seven", partitions=2):
            seen.append(value)

    lab.produce(topic, [(str(i), i) for i in range(10)])
    async with lab.running(app):
        lab.produce(topic, [(str(i), i) for i in range(100, 150)])
        await lab.until(lambda: sorted(seen) == list(range(100, 150)), "what came after the start")


async def test_tables_without_offsets_are_not_continued_at_the_end(lab: Any) -> None:
    topic, name = lab.topic(), lab.fresh("app")

    def program() -> Any:
        app = lab.app(name, consumer_auto_offset_reset="latest")
        totals = app.Table("totals", default=int)

        @app.agent(app.topic(topic, value_type=int), name="adder")
        async def adder(stream):
            async for value in stream:
                totals["all"] += value

        return app

    app = program()
    async with lab.running(app):
        lab.produce(topic, range(10))
        await lab.caught_up(topic, app)
    lab.admin.delete_group(name)  # as after a week without a member
    lab.produce(topic, range(10))
    error = await lab.stopped_by(program())
    assert isinstance(error, Stop)
    assert "its end would skip records" in str(error)
    assert lab.committed(name, topic) == {}
