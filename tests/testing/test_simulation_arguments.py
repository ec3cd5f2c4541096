"""A simulation that would compare nothing, or not what is meant, is refused."""

from __future__ import annotations

from typing import Any

import anabranch
import pytest
from anabranch.replay.testing.simulation import Simulation
from anabranch.topics.errors import Usage

CLICKS = [("ann", {"page": 1}), ("bob", {"page": 2})]


def counting() -> anabranch.App:
    app = anabranch.App("counting", topic_partitions=4)
    counts, _ = app.Table("counts", default=int), app.topic("alerts")

    @app.agent(app.topic("clicks", key_type=str), name="count")
    async def count(stream: Any) -> None:
        async for key, _ in stream.items():
            counts[key] += 1

    return app


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inputs": {"click": CLICKS}}, "reads no topic 'click'\n  hint: did you mean clicks"),
        ({"inputs": {"clicks": []}}, "without inputs"),
        ({"inputs": CLICKS}, "by topic"),
        ({"inputs": {"clicks": {"page": 1}}}, "topic clicks is one dict"),
        ({"inputs": {"clicks": "ann"}}, "topic clicks is one str"),
        ({"inputs": {"clicks": 5}}, "topic clicks is one int"),
        ({"seeds": 0}, "no worlds"),
        ({"seeds": []}, "no worlds"),
        ({"workers": 0}, "0 workers"),
        ({"partitions": 2}, "names no topic"),
        ({"partitions": {"clicks": "4"}}, "'4' is no number of partitions"),
        ({"ignore": "counts"}, r"as a list\n  hint: ignore=\[\"counts\"\]"),
        ({"ordered": "counts"}, "as a list"),
        ({"ignore": ["count"]}, r"ignore=\['count'\]: the app has no such table or topic\n  hint: did you mean counts"),
        ({"ordered": ["alert"]}, "did you mean alerts"),
    ],
)
def test_what_would_compare_nothing_is_refused(options: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"inputs": {"clicks": CLICKS}, "seeds": 1, **options}
    with pytest.raises(Usage, match=said):
        Simulation(counting, **given).same_as_without_faults()


def test_inputs_of_a_topic_that_is_only_written_are_refused() -> None:
    with pytest.raises(Usage, match="app counting reads no topic 'alerts'"):
        Simulation(counting, inputs={"clicks": CLICKS, "alerts": [1]}, seeds=1).same_as_without_faults()


def test_an_app_that_leaves_nothing_to_compare_is_told_so() -> None:
    def silent() -> anabranch.App:
        app = anabranch.App("silent", topic_partitions=4)

        @app.agent(app.topic("clicks", key_type=str), name="look")
        async def look(stream: Any) -> None:
            async for _ in stream:
                pass

        return app

    with pytest.raises(AssertionError, match="leaves nothing to compare"):
        Simulation(silent, inputs={"clicks": CLICKS}, seeds=1).same_as_without_faults()


def test_tables_that_are_empty_again_are_compared() -> None:
    def opening() -> anabranch.App:
        app = anabranch.App("opening", topic_partitions=4)
        opened = app.Table("opened", default=int)

        @app.agent(app.topic("clicks", key_type=str), name="open")
        async def open_or_close(stream: Any) -> None:
            async for key, _ in stream.items():
                if key in opened:
                    del opened[key]
                else:
                    opened[key] = 1

        return app

    report = Simulation(opening, inputs={"clicks": CLICKS * 2}, seeds=2).same_as_without_faults()
    assert report.worlds == 2


def test_a_table_with_a_key_in_several_partitions_is_told() -> None:
    """Only the value of the last partition would be compared, and a wrong one in another partition pass."""

    def by_page() -> anabranch.App:
        app = anabranch.App("by-page", topic_partitions=4)
        pages, own = app.Table("pages", default=int), app.Table("own", default=int, local=True)

        @app.agent(app.topic("clicks", key_type=str), name="count")
        async def count(stream: Any) -> None:
            async for click in stream:
                pages[click["page"]] += 1
                own[click["page"]] += 1

        return app

    clicks = [(f"u{n}", {"page": n % 3}) for n in range(40)]
    with pytest.raises(AssertionError, match="table pages: 3 of 3 keys are in several partitions, such as 0"):
        Simulation(by_page, inputs={"clicks": clicks}, seeds=3).same_as_without_faults()
    Simulation(by_page, inputs={"clicks": clicks}, seeds=2, ignore=["pages"]).same_as_without_faults()


def test_inputs_are_of_any_topic_that_is_read_whether_the_program_names_it_or_not() -> None:
    """That of an agent without a topic, and that of `through`, are known to Faust only."""

    def unnamed() -> anabranch.App:
        app = anabranch.App("unnamed", topic_partitions=4)
        counts = app.Table("counts", default=int)

        @app.agent(name="count")
        async def count(stream: Any) -> None:
            async for key, _ in stream.items():
                counts[key] += 1

        @app.agent(app.topic("clicks", key_type=str), name="count_again")
        async def count_again(stream: Any) -> None:
            async for key, _ in stream.through("again").items():
                counts[key] += 1

        return app

    own = unnamed().agents["count"].channel.get_topic_name()
    inputs = {own: CLICKS, "again": CLICKS, "clicks": CLICKS, "unread": []}
    Simulation(unnamed, inputs=inputs, seeds=2).same_as_without_faults()


@pytest.mark.parametrize("name", ["clicks.late", "clicks.dlq", "counts"])
def test_what_only_a_world_with_faults_may_have_can_be_ignored(name: str) -> None:
    Simulation(counting, inputs={"clicks": CLICKS}, seeds=1, ignore=[name]).same_as_without_faults()


def test_an_app_that_does_not_start_is_told_so_whatever_is_ignored() -> None:
    def broken() -> anabranch.App:
        app = counting()

        @app.task
        async def fail() -> None:
            raise ValueError("refused")

        return app

    with pytest.raises(AssertionError, match="not at rest"):
        Simulation(broken, inputs={"clicks": CLICKS}, ignore=["counting-later"]).same_as_without_faults()


def test_a_local_table_and_timers_may_have_a_key_in_any_partition_and_in_several() -> None:
    def by_partition() -> anabranch.App:
        app = anabranch.App("by-partition", topic_partitions=4)
        seen, pages = app.Table("seen", local=True), app.Table("pages", default=int, local=True)

        @app.agent(app.topic("views", time="at", time_unit="s"), name="look")
        async def look(stream: Any) -> None:
            async for view in stream:
                seen[view["id"]] = True

        @app.agent(app.topic("clicks", key_type=str, time="at", time_unit="s"), name="count")
        async def count(stream: Any) -> None:
            async for click in stream:
                pages[click["page"]] += 1
                app.at((click["at"] + 1000) * 1000, key="all", name="tick")

        @count.on_timer("tick")
        async def tick(_: Any) -> None:
            pass

        return app

    views = [{"id": n, "at": n} for n in range(20)]
    clicks = [(f"u{n}", {"page": n % 3, "at": 100 + n}) for n in range(40)]
    Simulation(by_partition, inputs={"views": views, "clicks": clicks}, seeds=5).same_as_without_faults()
