"""Topics of an app's own carry its id: two apps of one program do not meet in one."""

from __future__ import annotations

from typing import Any

import faust
from anabranch import Count, Tumbling
from anabranch.topics.errors import Usage
from confluent_kafka import TopicPartition


class Order(faust.Record):
    user: str
    n: int


def program(app: Any, topic: str) -> Any:
    totals = app.Table("totals", default=int)

    @app.agent(app.topic(topic, value_type=Order), name="by_user")
    async def by_user(stream: Any) -> None:
        async for order in stream.group_by(Order.user, partitions=2):
            totals[order.user] += order.n

    return totals


def orders(n: int) -> list[Any]:
    return [(str(i), {"user": "ann", "n": 1}) for i in range(n)]


async def test_two_app_ids_of_one_program_count_each_record_once_each(lab, table_of) -> None:
    topic = lab.topic(2)
    apps = [lab.app(lab.fresh("v"), worker=worker, topic_partitions=2) for worker in "ab"]
    totals = [program(app, topic) for app in apps]
    lab.produce(topic, orders(5))
    async with lab.running(*apps):
        for app in apps:
            await lab.caught_up(topic, app)
        await lab.until(lambda: all(dict(table.items()) == {"ann": 5} for table in totals), "five each")
        lab.produce(topic, orders(2))
        await lab.until(lambda: all(dict(table.items()) == {"ann": 7} for table in totals), "seven each")
    for app in apps:
        assert table_of(app, "totals") == {"ann": 7}


async def test_repartition_topics_have_as_many_partitions_as_the_topic_that_they_stand_for(lab, table_of) -> None:
    """Also where the app makes other topics with another number, and reads topics of several numbers."""
    three, two = lab.topic(3), lab.topic(2)
    app = lab.app(lab.fresh("app"), topic_partitions=1)
    app.topic(three, value_type=dict).key_by("user", "n").reduce(sum, "of-three")
    app.topic(two, value_type=dict).key_by("user", "n").reduce(sum, "of-two")
    app.topic(two, value_type=dict, time=lambda value: value["n"], grace="0s").key_by("user").window(
        Tumbling("1s")
    ).aggregate("windows", n=Count())
    grouped = app.Table("grouped", default=int, partitions=2)

    @app.agent(app.topic(two, value_type=Order), name="by_user")
    async def by_user(stream: Any) -> None:
        async for order in stream.group_by(Order.user):
            grouped[order.user] += order.n

    async with lab.running(app):
        for topic in (three, two):
            lab.produce(topic, orders(5))
        for name in ("of-three", "of-two", "grouped"):
            await lab.until(lambda name=name: table_of(app, name) == {"ann": 5}, name)
    counts = lab.admin.partitions()
    id = app.conf.id
    assert [counts[f"{id}-{name}-repartition"] for name in ("of-three", "of-two", "windows")] == [3, 2, 2]
    assert [counts[f"{id}-{name}-changelog"] for name in ("of-three", "of-two", "windows")] == [3, 2, 2]
    (by_field,) = [name for name in counts if name.startswith(f"{id}-") and "Order.user" in name]
    assert counts[by_field] == 2


def test_all_topics_that_an_app_makes_for_itself_carry_its_id(lab) -> None:
    app = lab.app(lab.fresh("app"))
    named = app.topic("orders")
    grouped = named.derive(prefix="agent-", suffix="-user-repartition", internal=True)
    again = grouped.derive(suffix="-shop-repartition", internal=True)
    table = app.Table("t", default=int)
    for topic in (grouped, again, table.changelog_topic, app.topic(app.conf.reply_to)):
        assert topic.get_topic_name().startswith(f"{app.conf.id}-")
    assert again.get_topic_name() == f"{app.conf.id}-agent-orders-user-repartition-shop-repartition"
    assert named.derive(suffix="-copy").get_topic_name() == "orders-copy", "a name of the user's stays as it is"


async def test_records_left_in_a_repartition_topic_of_before_stop_the_worker(lab, record) -> None:
    """As Faust called it, without the app's id; the group has read one of three records there."""
    topic, name = lab.topic(2), lab.fresh("app")
    former = f"by_user-{topic}-Order.user-repartition"
    lab.admin.create([lab.spec(former, 2)])
    lab.produce(former, [record({"user": "ann", "n": i}, "ann", 0, None, 0) for i in range(3)])

    def commit(offset: int) -> None:
        consumer = lab.cluster.consumer(group_id=name)
        consumer.commit(offsets=[TopicPartition(former, 0, offset)], asynchronous=False)
        consumer.close()

    # Another app has records there, which are nothing to this one.
    other = lab.app(lab.fresh("app"), worker="b", topic_partitions=2)
    totals = program(other, topic)
    lab.produce(topic, orders(1))
    async with lab.running(other):
        await lab.until(lambda: dict(totals.items()) == {"ann": 1}, "one")

    commit(1)
    app = lab.app(name, topic_partitions=2)
    program(app, topic)
    stopped = await lab.stopped_by(app)
    assert isinstance(stopped, Usage)
    assert f"2 unread records in {former}" in str(stopped)
    assert stopped.hint

    commit(3)
    again = lab.app(name, topic_partitions=2)
    totals = program(again, topic)
    async with lab.running(again):
        await lab.until(lambda: dict(totals.items()) == {"ann": 1}, "one")


async def test_records_that_group_by_gives_no_key_belong_together(lab, table_of) -> None:
    topic = lab.topic(4)
    app = lab.app(lab.fresh("app"), topic_partitions=4)
    counts = app.Table("counts", default=int)

    @app.agent(app.topic(topic))
    async def count(stream: Any) -> None:
        async for value in stream.group_by(lambda value: value["user"], name="user"):
            counts[value["user"]] += 1

    lab.produce(topic, [(str(i), {"user": None if i % 2 else "ann"}) for i in range(40)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        await lab.until(lambda: sum(value for _, value in counts.items()) == 40, "all counted")
        assert dict(counts.items()) == {None: 20, "ann": 20}
        assert sum(len(list(state.content.committed_items())) for state in counts.states.values()) == 2
