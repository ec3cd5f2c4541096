"""History that would be late for windowed tables, which agents write: it is counted and refused as for flows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anabranch
import faust
import pytest
from anabranch import World
from anabranch.replay.dead_letters.dead_letter_reader import DeadLetterFilter
from anabranch.replay.dead_letters.republisher import Republisher
from anabranch.replay.late_history import count_late_letters, late_check
from anabranch.replay.pipeline.pipeline import Pipeline
from anabranch.replay.player import Player
from anabranch.replay.replay_report import Report
from anabranch.replay.runs.inputs_with_windows import refuse_windows
from anabranch.replay.source_resolver import resolve_source
from anabranch.replay.sources.format import Format
from anabranch.replay.time_rows import read_time_rows
from anabranch.topics.consumer_groups import ConsumerGroups
from anabranch.topics.errors import Usage

START = "2026-01-31T12:00:00Z"
NOON_S = 1_769_860_800


class Sale(faust.Record):
    at: int
    user: str
    bad: bool = False


def app_of(how: str = "field", *, idle_after: str | None = None, name: str = "shop") -> anabranch.App:
    """Count sales by user in windows of 10 s that wait for 5 s."""
    app = anabranch.App(name, topic_partitions=2)
    time: dict[str, Any] = {} if how in ("field", "function") else {"time": "at", "time_unit": "s"}
    names = ("sales", "returns") if how == "function" else ("sales",)
    sales = app.topic(*names, value_type=Sale, idle_after=idle_after, partitions=2, **time)
    windowed = app.Table("by-user", default=int).tumbling(10, expires=15)
    by_user: Any = {
        "field": lambda: windowed.relative_to_field(Sale.at),
        "function": lambda: windowed.relative_to(lambda event: event.value.at),
    }.get(how, windowed.relative_to_stream)()

    @app.agent(sales, name="count")
    async def count(stream: Any) -> None:
        read = {"group_by": lambda: stream.group_by(Sale.user), "through": lambda: stream.through("passed")}
        async for sale in read.get(how, lambda: stream)():
            if sale.bad:
                raise ValueError("bad")
            by_user[sale.user] += 1

    return app


def sell(world: World, *seconds: int, partition: int = 0, bad: bool = False) -> None:
    for second in seconds:
        world.send("sales", {"at": NOON_S + second, "user": "ann", "bad": bad}, key="ann", partition=partition)
        world.settle()


def replay(
    world: World, file: Path, *seconds: int, app: anabranch.App | None, allow: bool = False, time: str | None = None
) -> Report:
    """`anabranch replay FILE --to sales`, in the world's Kafka."""
    file.write_text("".join(json.dumps({"at": NOON_S + second, "user": "ann"}) + "\n" for second in seconds))
    with world.environment.entered():
        cluster, pipeline = world.environment.kafka.cluster(), Pipeline()
        history = resolve_source([str(file)], Format(key="user", time=time, partition="0"), cluster=cluster)
        check = late_check(cluster, "sales", pipeline, app=app, allow=allow, note=lambda _: None)
        return Player(cluster, history, "sales", pipeline=pipeline, partitions=2, check=check).play()


@pytest.mark.parametrize("how", ["field", "function", "stream", "group_by", "through"])
def test_records_behind_a_closed_window_are_refused_and_the_others_are_on_time(how: str, tmp_path: Path) -> None:
    # Stream time 60, grace 5: windows up to 50 have closed, so 49 is late and 50 is not.
    with World(lambda: app_of(how), start=START) as world:
        sell(world, 1, partition=0)
        sell(world, 60, partition=0)
        sell(world, 60, partition=1)
        app = app_of(how)
        with pytest.raises(Usage, match="2 of 4 records would be late for table by-user of app shop") as refused:
            replay(world, tmp_path / "a.jsonl", 1, 49, 50, 61, app=app)
        assert "2026-01-31T12:01:00Z: the oldest is of 2026-01-31T12:00:01Z" in str(refused.value)
        assert len(world.topic("sales").values) == 3
        assert replay(world, tmp_path / "b.jsonl", 50, 61, app=app).sent == 2
        world.settle()
        assert not any(name.endswith(".late") for name in world.environment.kafka.topics)
        assert replay(world, tmp_path / "c.jsonl", 1, 49, 50, app=app, allow=True).sent == 3
        world.settle()
        late = world.topic("sales.late").values
        assert sorted(sale["at"] - NOON_S for sale in late) == [1, 49]


def test_without_the_app_records_go_by_their_timestamps_and_those_without_one_are_refused(tmp_path: Path) -> None:
    for how in ("field", "group_by"):
        with World(lambda how=how: app_of(how), start=START) as world:
            sell(world, 1, 60)
            with pytest.raises(Usage, match="1 of 2 records are older than what has been read by table by-user"):
                replay(world, tmp_path / "a.jsonl", 59, 61, app=None, time="at")
            assert replay(world, tmp_path / "b.jsonl", 60, 61, app=None, time="at").sent == 2
            with pytest.raises(Usage, match="only the app can say"):
                replay(world, tmp_path / "c.jsonl", 70, app=None)


def test_the_tables_of_an_app_whose_name_goes_on_are_not_those_of_the_app(tmp_path: Path) -> None:
    with World(lambda: app_of(name="shop-live"), start=START) as world:
        sell(world, 1, 60)
        with world.environment.entered():
            ConsumerGroups(world.environment.kafka.cluster()).begin_at("shop", ["sales"], "latest")
        with pytest.raises(Usage, match="1 of 2 records are older") as refused:
            replay(world, tmp_path / "a.jsonl", 59, 61, app=None, time="at")
        assert str(refused.value).count(" of app ") == 1
        assert "table by-user of app shop-live" in str(refused.value)


def test_what_an_idle_partition_has_closed_is_late(tmp_path: Path) -> None:
    # Partition 0 waits at 12:00:01 until it is idle; its window closes at the pace of the clock.
    with World(lambda: app_of(idle_after="1m"), start=START) as world:
        sell(world, 1, 2)
        assert replay(world, tmp_path / "a.jsonl", 3, app=app_of(), time="at").sent == 1
        world.advance("5m")
        with pytest.raises(Usage, match="1 of 2 records would be late"):
            replay(world, tmp_path / "b.jsonl", 4, 100, app=app_of())


def test_tables_whose_windows_never_close_and_those_of_other_topics_take_any_history(tmp_path: Path) -> None:
    def make() -> anabranch.App:
        app = anabranch.App("shop", topic_partitions=2)
        sales, visits = (
            app.topic(name, value_type=Sale, idle_after=None, partitions=2) for name in ("sales", "visits")
        )
        ever = app.Table("ever", default=int).tumbling(10).relative_to_field(Sale.at)
        other = app.Table("other", default=int).tumbling(10, expires=15).relative_to_field(Sale.at)
        plain = app.Table("plain", default=int)

        @app.agent(sales, name="count")
        async def count(stream: Any) -> None:
            async for sale in stream:
                ever[sale.user] += 1
                plain[sale.user, 1, 2] += 1

        @app.agent(visits, name="visit")
        async def visit(stream: Any) -> None:
            async for one in stream:
                other[one.user] += 1

        return app

    with World(make, start=START) as world:
        sell(world, 1, 60)
        world.send("visits", {"at": NOON_S + 900, "user": "ann"}, key="ann", partition=0)
        world.settle()
        assert replay(world, tmp_path / "a.jsonl", 1, 2, app=make()).sent == 2


def test_dead_letters_that_would_be_late_are_counted() -> None:
    app = app_of()
    with World(app_of, start=START) as world:
        sell(world, 0)
        sell(world, 1, 48, bad=True)
        sell(world, 60)
        sell(world, 58, bad=True)
        environment = world.environment
        with environment.entered():
            cluster = environment.kafka.cluster()
            left = [letter for letter, _ in Republisher(cluster, "sales.dlq").read(DeadLetterFilter())]
            (count,) = count_late_letters(cluster, left, None, app, now=False)
        assert (count.late, count.records) == (2, 3)


def test_a_timer_that_fires_again_is_no_late_record() -> None:
    def make() -> anabranch.App:
        app = anabranch.App("shop", topic_partitions=2)
        by_user = app.Table("by-user", default=int).tumbling(10, expires=15).relative_to_stream()

        @app.agent(app.topic("sales", value_type=Sale, partitions=2, idle_after=None), name="count")
        async def count(stream: Any) -> None:
            async for sale in stream:
                by_user[sale.user] += 1
                if sale.at == NOON_S + 1:
                    app.at((NOON_S + 20) * 1000, key=sale.user, name="remind")

        @count.on_timer("remind")
        async def remind(timer: Any) -> None:
            raise ValueError("bad")

        return app

    with World(make, start=START) as world:
        sell(world, 1)
        world.advance(90)
        sell(world, 90)
        environment = world.environment
        with environment.entered():
            cluster = environment.kafka.cluster()
            (letter,) = (letter for letter, _ in Republisher(cluster, "sales.dlq").read(DeadLetterFilter()))
            assert letter.reason == "timer"
            assert count_late_letters(cluster, [letter], None, make(), now=False) == []
            assert count_late_letters(cluster, [letter], None, now=False) == []
            (count,) = count_late_letters(cluster, [letter], "sales", now=False)  # as a record, with --to
        assert count.late == 1


def test_a_time_row_is_found_however_long_ago_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.replay.time_rows._LAST", 1)
    make: Callable[[], anabranch.App] = app_of
    with World(make, start=START) as world:
        sell(world, 1, 2, 3)
        sell(world, 4, partition=1)
        environment = world.environment
        with environment.entered():
            rows = read_time_rows(environment.kafka.cluster(), ["shop-by-user-changelog", "shop-none-changelog"])
        assert sorted(at.partition for at in rows) == [0, 1]


def test_tables_with_a_time_to_live_keep_another_time_which_makes_no_record_late(tmp_path: Path) -> None:
    def make() -> anabranch.App:
        app = anabranch.App("shop", topic_partitions=2)
        seen = app.Table("seen", default=int, ttl=3600)

        @app.agent(app.topic("sales", value_type=Sale, partitions=2), name="count")
        async def count(stream: Any) -> None:
            async for sale in stream:
                seen[sale.user] += 1

        return app

    with World(make, start=START) as world:
        sell(world, 1, 60)
        for number, app in enumerate((None, make(), anabranch.App("other"))):
            assert replay(world, tmp_path / f"{number}.jsonl", 1, app=app, time="at").sent == 1


def test_a_run_into_live_topics_is_not_refused_for_their_sake() -> None:
    refuse_windows(app_of(), ["sales"], into_live=True)


def test_what_the_topic_declares_is_the_time_of_a_record_also_behind_group_by() -> None:
    # The records' own timestamps are those of the clock, which is hours later.
    for how in ("stream", "group_by"):
        with World(lambda how=how: app_of(how), start="2026-01-31T18:00:00Z") as world:
            sell(world, 1, 2, 11)
            key = lambda second: ("ann", (NOON_S + second) * 1000, (NOON_S + second + 10) * 1000)  # noqa: E731
            assert world.table("by-user") == {key(0): 2, key(10): 1}
