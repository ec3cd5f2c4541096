"""Source partitions that are far ahead of others wait for them: fewer windows are open, and nothing else changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anabranch
import faust
import pytest
from anabranch import Count, Tumbling, World
from anabranch.agents.engine import group_consumer
from anabranch.agents.engine.held_partitions import HeldPartitions
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.agents.tables.window_table import WindowTable, window_contents
from anabranch.replay.testing.simulation import Simulation
from anabranch.replay.testing.world_feed import Input
from anabranch.replay.testing.world_questions import WebAnswer, ask_web
from anabranch.topics.errors import Usage
from anabranch.topics.partitioners import HashPartitioner
from open_transaction import open_transaction

START = "2026-01-31T12:00:00Z"
START_S = 1_769_860_800
DAY_S = 86_400
POLL = 20
"""Records of a poll; a partition with fewer unread ones is not waited for."""
AHEAD_S = 20 * 10
SEEDS = 3


def app_of(
    *, lengths: float | None = 20.0, partitions: int = 2, idle_after: str | None = None, batch_records: int = POLL
) -> anabranch.App:
    # In a world, all that is processed at once is one epoch, unless it has many outputs.
    settings = EngineSettings(max_ahead_windows=lengths, batch_records=batch_records, max_outputs=20)
    app = anabranch.App("ahead", topic_partitions=partitions, settings=settings)
    sales = app.topic(
        "sales", time="at", time_unit="s", grace="0s", max_jump=None, idle_after=idle_after, partitions=partitions
    )
    sales.key_by("user").window(Tumbling("10s")).aggregate("by-user", n=Count()).final().to("finals")
    return app


class Sale(faust.Record, validation=False):
    user: str
    at: Any


def grouped_app() -> anabranch.App:
    """The same windows in a table that an agent writes behind `group_by`."""
    app = anabranch.App("ahead", topic_partitions=4, settings=EngineSettings(batch_records=POLL))
    sales = app.topic("sales", value_type=Sale, max_jump=None, idle_after=None, partitions=4)
    finals = app.topic("finals")

    async def report(key: Any, value: int) -> None:
        user, (start, _) = key
        await finals.send(key=user, value={"user": user, "start": start, "n": value})

    table = app.Table("by-user", default=int, on_window_close=report).tumbling(10, expires=10)
    by_user = table.relative_to_field(Sale.at)

    @app.agent(sales, name="count")
    async def count(stream: Any) -> None:
        async for sale in stream.group_by(Sale.user):
            by_user[sale.user] += 1

    return app


def send(world: World, partition: int, seconds: range) -> None:
    for at_s in seconds:
        world.send("sales", {"at": START_S + at_s, "user": f"u{partition}"}, key="", partition=partition)


@contextmanager
def each_look(monkeypatch: pytest.MonkeyPatch, then: Callable[[HeldPartitions], None]) -> Iterator[None]:
    """Call a function whenever a worker has looked at what is far ahead."""
    look = HeldPartitions.look

    def spied(self: HeldPartitions, unread: Any, most: int) -> None:
        look(self, unread, most)
        then(self)

    with monkeypatch.context() as patched:
        patched.setattr(HeldPartitions, "look", spied)
        yield


def open_windows(app: anabranch.App) -> int:
    tables = [table for table in runtime_of(app).tables if isinstance(table, WindowTable)]
    contents = [content for table in tables for content in window_contents(table).values()]
    for content in contents:
        content.load()
    return sum(len(content.open) for content in contents)


@pytest.fixture(autouse=True)
def small_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the first poll has few records."""
    monkeypatch.setattr(group_consumer, "_FIRST", POLL)


def finals_of(partition: int, seconds: range) -> dict[tuple[str, int], int]:
    """Return what the windows of records count that were sent with `send`."""
    return dict(Counter((f"u{partition}", (START_S + at_s) // 10 * 10_000) for at_s in seconds))


def ask(world: World, path: str) -> WebAnswer:
    """Ask a web view; `world.get` would wait until all is processed."""
    return ask_web(world.environment, list(world._lives()), "GET", path)


@pytest.mark.parametrize("lengths", [20.0, None])
def test_few_windows_are_open_at_once_however_far_the_partitions_are_apart(
    lengths: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparse, dense, most = range(0, 6_000, 20), range(0, 6_000, 2), [0]
    with World(lambda: app_of(lengths=lengths), start=START) as world:
        send(world, 0, sparse)
        send(world, 1, dense)

        def note(_: HeldPartitions) -> None:
            most[0] = max(most[0], open_windows(world.app))

        with each_look(monkeypatch, note):
            world.settle()
        finals = {(v["key"], v["start"]): v["n"] for v in world.topic("finals").values}
    counts = finals_of(0, sparse) | finals_of(1, dense)
    assert finals == {row: count for row, count in counts.items() if row[1] < (START_S + 5_980) * 1000}
    # Those within the bound, and those of some polls.
    assert (most[0] < AHEAD_S // 10 + 3 * POLL) == bool(lengths), most


def test_a_partition_a_day_ahead_waits_until_the_other_one_has_been_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int]] = []
    with World(app_of, start=START) as world:
        send(world, 0, range(DAY_S, DAY_S + 3_000))
        send(world, 1, range(3_000))

        def note(held: HeldPartitions) -> None:
            (stream,) = [stream for stream in held._streams if stream.max_ahead_ms is not None]
            queues = {at.partition: queue for at, queue in stream.queue.partitions.items()}
            if held.held:
                read.append((queues[0].offset, queues[1].offset))

        with each_look(monkeypatch, note):
            world.settle()
        finals = {(v["key"], v["start"]): v["n"] for v in world.topic("finals").values}
    assert {ahead for ahead, _ in read} == {POLL}
    assert read[-1][1] > 2_900
    assert finals == {row: n for row, n in finals_of(1, range(3_000)).items() if row[1] < (START_S + 2_990) * 1000}


def test_a_partition_without_records_stops_no_other_one() -> None:
    with World(lambda: app_of(partitions=3), start=START) as world:
        send(world, 0, range(0, 3_000, 5))
        send(world, 1, range(DAY_S, DAY_S + 3_000, 5))
        world.settle()
        assert world.topic("finals").values == []  # the empty one is never idle, so no window closes
        assert sum(row["n"] for row in world.table("by-user").values()) == 1_200


def test_a_partition_whose_records_cannot_be_read_stops_others_for_a_while_only() -> None:
    with World(lambda: app_of(batch_records=100), start=START) as world:
        send(world, 1, range(500))
        world.settle()
        records = [b'{"at": %d, "user": "u1"}' % (START_S + at_s) for at_s in range(500, 800)]
        with open_transaction(world, "sales", records, partition=1):
            send(world, 0, range(DAY_S, DAY_S + 1_000))
            world.advance("1s")
            first = sum(row["n"] for row in world.table("by-user").values())
            (waiting,) = ask(world, "/time/").json["waiting"]
            assert waiting["partition"] == ["sales", 0]
            assert waiting["waits_for"] == ["sales", 1]
            assert waiting["ahead_ms"] == 86_000_000
            assert waiting["records"] > 0
            assert 'anabranch_partitions_waiting{by="sales[1]"} 1.0' in ask(world, "/metrics").text
            assert first < 1_500
            world.advance("1m")  # workers that have nothing to do look again half a minute later
            assert sum(row["n"] for row in world.table("by-user").values()) == 1_500
            assert ask(world, "/time/").json["waiting"] == []
        world.settle()
        assert sum(row["n"] for row in world.table("by-user").values()) == 1_800


def inputs(count: int) -> dict[str, list[Input]]:
    """Records of four partitions, in two of which time passes ten times as fast."""
    partition_of = HashPartitioner(4).partition
    keys = {partition_of(key.encode()): key for key in map(str, range(40))}
    made = [
        Input({"at": START_S + number * (30, 3)[partition % 2], "user": f"u{number % 5}"}, keys[partition])
        for number in range(count)
        for partition in range(4)
    ]
    return {"sales": made}


@pytest.mark.parametrize("bounded", [False, True], ids=["live", "bounded"])
@pytest.mark.parametrize(
    ("make", "purged"),
    [
        (lambda: app_of(partitions=4), "ahead-by-user-repartition"),
        (grouped_app, "ahead-count-sales-Sale.user-repartition"),
    ],
    ids=["flow", "group-by"],
)
def test_worlds_with_faults_have_the_same_windows(
    make: Callable[[], anabranch.App], purged: str, bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    with each_look(monkeypatch, lambda partitions: held.append(len(partitions.held))):
        report = Simulation(
            make,
            inputs=inputs(150),
            seeds=SEEDS,
            bounded=bounded,
            workers=2,
            ignore=[purged],  # purged each half minute
        ).same_as_without_faults()
    assert report.worlds >= SEEDS
    assert not report.failures
    assert sum(held) > SEEDS, "some partition was held back in each world"


@pytest.mark.parametrize("lengths", [0, -1, float("inf"), float("nan"), "5"])
def test_a_distance_that_is_no_number_above_0_is_refused(lengths: Any) -> None:
    with pytest.raises(Usage, match=r"max_ahead_windows=.*a number of lengths above 0"):
        app_of(lengths=lengths)
