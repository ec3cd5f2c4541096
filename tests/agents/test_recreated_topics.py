"""A topic that is deleted and recreated while a worker runs is detected, and its first records are not skipped."""

from __future__ import annotations

from typing import Any

import pytest
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.consumer_groups import ConsumerGroups
from anabranch.topics.errors import Stop
from confluent_kafka import TopicPartition


def make_anew(lab: Any, topic: str, partitions: int = 1) -> None:
    lab.admin.delete([topic])
    lab.admin.create([TopicSpec(topic, partitions)])
    lab._producer = None  # the one there is knows the old topic


def reading(lab: Any, name: str, topic: str, seen: list[int], *, table: bool = False, **options: Any) -> Any:
    app = lab.app(name, **options)
    totals: Any = app.Table("totals", default=int) if table else {"all": 0}

    @app.agent(app.topic(topic, value_type=int), name="reader")
    async def reader(stream):
        async for value in stream:
            totals["all"] += value
            seen.append(value)

    return app


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize("records", [8, 3])
async def test_a_worker_stops_before_it_commits_offsets_of_the_new_topic(
    lab: Any, guarantee: str, records: int
) -> None:
    #  old topic  0 1 2 3 4 ▲ committed: 5      new topic  0 … 7: the worker would go on at 5
    #                                                      0 1 2: there is no 5
    topic, name = lab.topic(), lab.fresh("app")
    first: list[int] = []
    app = reading(lab, name, topic, first, processing_guarantee=guarantee)
    worker = await lab.started(app)
    lab.produce(topic, range(5))
    await lab.caught_up(topic, app)
    make_anew(lab, topic)
    lab.produce(topic, range(100, 100 + records))
    await lab.until(worker.done, "the worker ends")
    error = worker.exception()
    assert isinstance(error, Stop)
    assert f"topic {topic} was deleted and recreated" in str(error)
    assert lab.committed(name, topic) == {}

    second: list[int] = []
    app = reading(lab, name, topic, second, processing_guarantee=guarantee)
    async with lab.running(app):
        await lab.until(lambda: len(second) >= records, "the records of the new topic")
    assert second == list(range(100, 100 + records))


async def test_a_topic_that_is_made_anew_between_two_starts_is_read_from_its_beginning(lab: Any) -> None:
    for options in ({}, {"consumer_auto_offset_reset": "latest"}):
        topic, name, seen = lab.topic(), lab.fresh("app"), []
        app = reading(lab, name, topic, seen, **options)
        async with lab.running(app):
            lab.produce(topic, range(5))
            await lab.caught_up(topic, app)
        make_anew(lab, topic)
        lab.produce(topic, range(100, 108))
        app = reading(lab, name, topic, seen, **options)
        async with lab.running(app):
            await lab.until(lambda: len(seen) >= 13, "the records of the new topic")  # noqa: B023
        assert seen == [*range(5), *range(100, 108)]


async def test_tables_with_content_of_the_old_topic_are_not_added_to_unasked(lab: Any, table_of: Any) -> None:
    #  a: deleted, made anew      b: as it was, so that the group has offsets beside
    a, b, name = lab.topic(), lab.topic(), lab.fresh("app")

    def program(store: str = "memory://") -> Any:
        app = lab.app(name, store=store)
        totals = app.Table("totals", default=int)

        @app.agent(app.topic(a, b, value_type=int), name="adder")
        async def adder(stream):
            async for value in stream:
                totals["all"] += value

        return app

    app = program()
    async with lab.running(app):
        lab.produce(a, range(5))
        lab.produce(b, [1000])
        await lab.caught_up(a, app)
        await lab.caught_up(b, app)
    make_anew(lab, a)
    lab.produce(a, range(8))
    for _ in range(2):  # it is asked again at each start
        error = await lab.stopped_by(program())
        assert isinstance(error, Stop)
        assert f"topic {a} was deleted and recreated, but table totals has content from before" in str(error)
        assert "to 0" in str(error)
    setter = lab.cluster.consumer(group_id=name)
    setter.commit(offsets=[TopicPartition(a, 0, 0)], asynchronous=False)
    setter.close()
    app = program()
    async with lab.running(app):
        await lab.until(
            lambda: ConsumerGroups(lab.cluster).offsets(name).get((a, 0), (0, ""))[0] == 8, "all of the new topic"
        )
    assert table_of(app, "totals") == {"all": sum(range(5)) + 1000 + sum(range(8))}


async def test_a_changelog_that_is_made_anew_under_a_worker_ends_it(lab: Any) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    app = reading(lab, name, topic, [], table=True)
    worker = await lab.started(app)
    lab.produce(topic, range(5))
    await lab.caught_up(topic, app)
    changelog = f"{name}-totals-changelog"
    lab.admin.delete([changelog])
    lab.admin.create([TopicSpec(changelog, 1, config={"cleanup.policy": "compact"})])
    lab.produce(topic, range(5))
    await lab.until(worker.done, "the worker ends")
    error = worker.exception()
    assert isinstance(error, Stop)
    assert f"changelog {changelog} was deleted and recreated" in str(error)
    assert lab.committed(name, topic)[0][0] == 5


async def test_a_changelog_that_is_deleted_while_the_worker_starts_ends_it(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    app = reading(lab, name, topic, [], table=True)
    listed = Admin.partitions

    def with_changelog(admin: Admin, topics: Any = None, **options: Any) -> dict[str, int]:
        found = listed(admin, topics, **options)
        return found if topics else {app.tables["totals"].changelog_name: 1, **found}  # a list from before

    monkeypatch.setattr(Admin, "partitions", with_changelog)
    monkeypatch.setattr("anabranch.topics.admin._DELETED_S", 0.3)
    with pytest.raises(Stop, match=f"there is no longer a topic {name}-totals-changelog"):
        await lab.started(app)
