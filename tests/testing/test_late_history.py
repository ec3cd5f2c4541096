"""History into a topic that an app with windows has read would be late: that is said before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anabranch
import pytest
from anabranch import Count, Tumbling, World
from anabranch.replay.dead_letters.dead_letter_reader import DeadLetterFilter
from anabranch.replay.dead_letters.republisher import Republisher
from anabranch.replay.late_history import count_late_letters, late_check
from anabranch.replay.pipeline.pipeline import Pipeline
from anabranch.replay.player import Player
from anabranch.replay.replay_report import Report
from anabranch.replay.source_resolver import resolve_source
from anabranch.replay.sources.format import Format
from anabranch.topics.errors import Usage

START = "2026-01-31T12:00:00Z"
NOON_S = 1_769_860_800


def app_of(*, by_key: bool = True, time: str | None = "at") -> anabranch.App:
    app = anabranch.App("shop", topic_partitions=2)
    unit: Any = "s" if time else None
    sales = app.topic("sales", time=time, time_unit=unit, grace="5s", idle_after=None, partitions=2)
    flow = sales.map(checked)
    keyed = flow.key_by("user") if by_key else flow
    keyed.window(Tumbling("10s")).aggregate("by-user", n=Count()).final().to("finals")
    return app


def checked(sale: dict[str, Any]) -> dict[str, Any]:
    if sale.get("bad"):
        raise ValueError("bad")
    return sale


def sell(world: World, *seconds: int, partition: int = 0, bad: bool = False) -> None:
    for second in seconds:
        at = NOON_S + second
        world.send("sales", {"at": at, "user": "ann", "bad": bad}, key="ann", partition=partition)
    world.settle()


class Command:
    """`anabranch replay FILE --to sales`, in the world's Kafka."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.notes: list[str] = []

    def replay(
        self,
        seconds: Sequence[int],
        *,
        app: anabranch.App | None,
        allow: bool = False,
        time: str | None = None,
        name: str = "",
    ) -> Report:
        file = self.folder / (name or f"sales-{len(list(self.folder.iterdir()))}.jsonl")
        if not file.exists():
            file.write_text("".join(json.dumps({"at": NOON_S + second, "user": "ann"}) + "\n" for second in seconds))
        environment, pipeline = self.world.environment, Pipeline()
        with environment.entered():
            cluster = environment.kafka.cluster()
            history = resolve_source([str(file)], Format(key="user", time=time, partition="0"), cluster=cluster)
            check = late_check(cluster, "sales", pipeline, app=app, allow=allow, note=self.notes.append)
            return Player(cluster, history, "sales", pipeline=pipeline, partitions=2, check=check).play()


@pytest.mark.parametrize("by_key", [True, False])
def test_records_behind_a_closed_window_are_refused_and_counted_before_they_are_sent(
    by_key: bool, tmp_path: Path
) -> None:
    # Stream time 60, grace 5: windows up to 50 have closed, so 49 is late and 50 is not.
    with World(lambda: app_of(by_key=by_key), start=START) as world:
        sell(world, 1, 60)
        command, app = Command(world, tmp_path), app_of(by_key=by_key)
        with pytest.raises(Usage, match="2 of 4 records would be late for table by-user of app shop") as refused:
            command.replay([1, 49, 50, 61], app=app)
        assert "2026-01-31T12:01:00Z: the oldest is of 2026-01-31T12:00:01Z" in str(refused.value)
        assert "--allow-late" in str(refused.value.hint)
        assert len(world.topic("sales").values) == 2
        assert command.replay([50, 61], app=app).sent == 2
        world.settle()
        assert "sales.late" not in world.environment.kafka.topics
        report = command.replay([1, 49, 50], app=app, allow=True)
        world.settle()
        assert report.sent == 3
        assert len(world.topic("sales.late").values) == 2
    assert ["2 of 3 records" in note for note in command.notes] == [True]


def test_without_the_app_records_go_by_their_timestamps_and_those_without_one_are_refused(tmp_path: Path) -> None:
    with World(app_of, start=START) as world:
        sell(world, 1, 60)
        command = Command(world, tmp_path)
        with pytest.raises(Usage, match="1 of 2 records are older than what has been read by table by-user"):
            command.replay([59, 61], app=None, time="at")
        assert command.replay([60, 61], app=None, time="at").sent == 2
        with pytest.raises(Usage, match="only the app can say") as refused:
            command.replay([70, 71], app=None)
        assert "anabranch -A APP" in str(refused.value.hint)


def timers(*, by_key: bool = False) -> anabranch.App:
    app = anabranch.App("shop", topic_partitions=2)
    sales = app.topic("sales", time="at", time_unit="s", grace="5s", idle_after=None, partitions=2)

    @app.agent(sales, name="watch")
    async def watch(stream: anabranch.Stream[Any]) -> None:
        async for sale in stream.group_by(lambda sale: sale["user"], name="user") if by_key else stream:
            app.at(sale["at"] * 1000 + 1000, key=sale["user"], name="unpaid")

    @watch.on_timer("unpaid")
    async def unpaid(_: Any) -> None:
        pass

    return app


@pytest.mark.parametrize("by_key", [False, True])
def test_no_record_is_late_for_timers(tmp_path: Path, by_key: bool) -> None:
    with World(lambda: timers(by_key=by_key), start=START) as world:
        sell(world, 1, 60)
        command = Command(world, tmp_path)
        assert command.replay([1, 2], app=timers(by_key=by_key)).sent == 2
        assert command.replay([1, 2, 3], app=None, time="at").sent == 3


def test_a_topic_that_nobody_has_read_and_a_partition_without_time_take_any_history(tmp_path: Path) -> None:
    with World(app_of, start=START) as world:
        command = Command(world, tmp_path)
        assert command.replay([5, 1], app=app_of()).sent == 2
        world.settle()
    with World(app_of, start=START) as world:
        sell(world, 1, 60, partition=1)
        assert Command(world, tmp_path).replay([1, 2, 3], app=app_of()).sent == 3


def test_the_same_replay_again_is_not_refused_because_of_what_it_has_sent_itself(tmp_path: Path) -> None:
    with World(app_of, start=START) as world:
        sell(world, 1, 60)
        command = Command(world, tmp_path)
        command.replay([1, 2], app=app_of(), allow=True)
        world.settle()
        again = command.replay([1, 2], app=app_of(), name="sales-0.jsonl")
        assert (again.sent, again.sent_now) == (2, 0)


def test_dead_letters_that_would_be_late_are_counted() -> None:
    app = app_of()
    with World(app_of, start=START) as world:
        sell(world, 1, bad=True)
        sell(world, 48, bad=True)
        sell(world, 60)
        sell(world, 58, bad=True)
        environment = world.environment
        with environment.entered():
            cluster = environment.kafka.cluster()
            letters = Republisher(cluster, "sales.dlq").read(DeadLetterFilter())
            left = [letter for letter, _ in letters]
            (count,) = count_late_letters(cluster, left, None, app, now=False)
            (blind,) = count_late_letters(cluster, left, None, now=False)
            (now,) = count_late_letters(cluster, left, None, now=True)
        assert (count.late, count.records) == (2, 3)
        assert (blind.late, blind.records) == (3, 3)
        assert (now.late, now.timeless) == (0, 3)
