"""Timers where records of source partitions meet: behind `group_by`, of one partition and of several."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anabranch
import pytest
import timer_programs
from anabranch import Simulation, World
from anabranch.replay.runs.inputs_with_timers import TimersLeft, timers_left
from anabranch.topics.errors import Usage
from anabranch.topics.partitioners import HashPartitioner

PARTITIONS = 3


# Behind group_by: one source partition ------------------------------------------------------------------------------


def found(world: World) -> tuple[Any, Any, Any]:
    """Return what the app of `timer_programs` has told of each user, what it has seen, and its timers."""
    told: dict[str, list[str]] = defaultdict(list)
    for record in world.topic("told").records:
        told[record.key.decode()].append(record.value)
    timers = {key: row["due"] for key, row in world.table("watch-timers").items()}
    return told, world.table("seen"), timers


def by_twins(records: list[dict[str, Any]]) -> tuple[Any, Any, Any]:
    twins = timer_programs.expected(records, by_key=True)
    return (
        {user: lines for twin in twins for user, lines in twin.told.items()},
        {user: count for twin in twins for user, count in twin.seen.items()},
        {timer: due * 1000 for twin in twins for timer, (due, _) in twin.timers.items()},
    )


@pytest.mark.parametrize("each", [1, 7, 1000], ids=["a-commit-each", "some-commits", "one-epoch"])
def test_behind_group_by_of_one_partition_timers_do_what_follows_from_its_log(each: int) -> None:
    records = timer_programs.orders(150 if each > 1 else 60)
    with World(lambda: timer_programs.app_of(by_key=True), workers=2) as world:
        for number, order in enumerate(records):
            world.send("orders", order, key="k")
            if number % each == each - 1:
                world.settle()
        world.settle()
        assert found(world) == by_twins(records)


@pytest.mark.parametrize("store", ["memory://", "rocksdb://"])
def test_behind_group_by_worlds_with_faults_fire_the_same_timers(store: str) -> None:
    simulation = Simulation(
        lambda: timer_programs.app_of(by_key=True, store=store),
        inputs={"orders": [("k", order) for order in timer_programs.orders()]},
        seeds=6 if store == "memory://" else 2,
        faults="kill,abort,lost-answer,rebalance",
        ordered=["told"],
    )
    assert simulation.same_as_without_faults().worlds


def test_a_record_keeps_its_own_headers_also_those_of_a_late_record_or_a_dead_letter() -> None:
    """An agent may read the topic of late records, where `anabranch-source` says where each has been."""

    def make() -> anabranch.App:
        app = anabranch.App("late", topic_partitions=1)
        orders = app.topic("orders.late", time="at", time_unit="s", grace=0, idle_after=None, partitions=1)
        told = app.topic("told")

        @app.agent(orders, name="watch")
        async def watch(stream):
            by_user = stream.group_by(lambda order: order["user"], name="user")
            async for order in by_user:
                app.at(order["at"] * 1000 + 1000, key=order["user"], name="again")
                await told.send(value=by_user.current_event.headers["anabranch-source"].decode())

        @watch.on_timer("again")
        async def again(timer):
            await told.send(value="again")

        return app

    headers = {"anabranch-reason": b"late", "anabranch-source": b"orders[3]@7"}
    with World(make) as world:
        world.settle()
        with world.environment.entered():  # as it was sent on while the agent had no timers
            sender = world.environment.kafka.cluster().producer()
            sender.produce("late-watch-orders.late-user-repartition", b'{"user":"u","at":1}', b"u", headers=headers)
            sender.flush()
        for at in (2, 9):
            world.send("orders.late", {"user": "u", "at": at}, key="u", headers=headers)
        world.settle()
        assert world.topic("told").values == ["orders[3]@7", "orders[3]@7", "again", "orders[3]@7"]


def reading_letters(*, timers: bool) -> anabranch.App:
    """Reads dead letters, which say in a header where they come from, with a windowed table or timers."""
    app = anabranch.App("letters", topic_partitions=1)
    letters, told = app.topic("orders.dlq", time="at", time_unit="s", partitions=1), app.topic("told")
    counts = None if timers else app.Table("counts", default=int).tumbling(10, expires=14).relative_to_stream()

    @app.agent(letters, name="watch")
    async def watch(stream):
        by_user = stream.group_by(lambda order: order["user"], name="user")
        async for order in by_user:
            if counts is not None:
                counts[order["user"]] += 1
            await told.send(key="k", value=by_user.current_event.headers["anabranch-source"].decode())

    if timers:

        @watch.on_timer("t")
        async def fire(timer):
            del timer

    return app


@pytest.mark.parametrize("timers", [False, True])
def test_group_by_keeps_the_header_with_which_a_dead_letter_says_where_it_comes_from(timers: bool) -> None:
    with World(lambda: reading_letters(timers=timers)) as world:
        world.send("orders.dlq", {"at": 1, "user": "u"}, headers={"anabranch-source": b"orders[0]@3"})
        world.settle()
        assert world.topic("told").values == ["orders[0]@3"]


# Behind group_by: several source partitions -------------------------------------------------------------------------


def reminding(*, idle_after: str | None = None) -> anabranch.App:
    """Reminds of each order by a timer, and again every 20 s, three times: the order of records does not matter."""
    app = anabranch.App("reminding", topic_partitions=PARTITIONS)
    orders = app.topic("orders", time="at", time_unit="s", grace="2s", idle_after=idle_after, partitions=PARTITIONS)
    told, reminded = app.topic("told"), app.Table("reminded", default=int)

    @app.agent(orders, name="watch")
    async def watch(stream):
        async for order in stream.group_by(lambda order: order["user"], name="user"):
            app.at((order["at"] + order["wait"]) * 1000, key=order["user"], name=f"t{order['number']}", payload=3)

    async def remind(timer):
        reminded[timer.key] += 1
        await told.send(key=timer.key, value=f"{timer.name} at {timer.due_ms // 1000}")
        if timer.payload:
            app.at(timer.due_ms + 20_000, key=timer.key, name=timer.name, payload=timer.payload - 1)

    for number in range(COUNT):
        watch.on_timer(f"t{number}")(remind)
    return app


COUNT = 60


def records() -> list[dict[str, Any]]:
    """Return orders by shop, one a second in all partitions together; one shop is 40 s behind."""
    made: list[dict[str, Any]] = []
    for number in range(COUNT):
        shop = f"s{number % 5}"
        at = number - (40 if shop == "s1" else 0)
        made.append({"shop": shop, "user": f"u{number % 7}", "at": 100 + at, "wait": number % 4 * 9, "number": number})
    return made


def reminders(until: int, *, ended: bool = False) -> list[str]:
    """Return what is told.

    Args:
        until: the watermark, in seconds.
        ended: the input has ended, so that all timers have fired that were set by then.
    """
    return sorted(
        f"t{order['number']} at {due}"
        for order in records()
        for due in range(order["at"] + order["wait"], order["at"] + order["wait"] + 61, 20)
        if due <= until or (ended and (due - 20 <= until or due == order["at"] + order["wait"]))
    )


def last_times() -> dict[int, int]:
    """Return the last stream time of each source partition, in seconds."""
    place, last = HashPartitioner(PARTITIONS), dict[int, int]()
    for order in records():
        partition = place.partition(order["shop"].encode())
        last[partition] = max(order["at"], last.get(partition, 0))
    return last


PROGRAM = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_timers_behind_group_by import reminding
app = reminding()
"""


@pytest.mark.parametrize("pack", [None, "lz4"])
def test_the_end_of_the_input_passes_through_group_by_and_all_timers_fire(tmp_path: Path, pack: Any) -> None:
    program, orders = tmp_path / "program.py", tmp_path / "orders.jsonl"
    program.write_text(PROGRAM)
    orders.write_text("".join(json.dumps(order) + "\n" for order in records()))
    with World(str(program)) as world:
        result = world.run({"orders": orders}, key="shop", pack=pack, workers=1 if pack else 2)
    # What timers set at the end fires only if it is due by the last stream time of any partition.
    assert sorted(result.topics["told"].values) == reminders(max(last_times().values()) - 2, ended=True)
    assert all(row["late"] for row in result.tables["watch-timers"].values())
    assert result.tables["watch-timers"]


def test_live_the_least_stream_time_of_the_source_partitions_makes_timers_due() -> None:
    with World(reminding, workers=2) as world:
        for number, order in enumerate(records()):
            world.send("orders", order, key=order["shop"])
            if number % 13 == 0:
                world.settle()
        world.settle()
        assert sorted(world.topic("told").values) == reminders(min(last_times().values()) - 2)
        rows = world.get("/time/").json["operators"]
        assert {row["watermark_ms"] for row in rows} == {(min(last_times().values()) - 2) * 1000}
        assert all("orders" in held for row in rows for held in row["held_back_by"])


def test_source_partitions_that_nothing_was_heard_of_are_named() -> None:
    with World(reminding) as world:
        world.send("orders", records()[0], partition=1)
        world.settle()
        rows = world.get("/time/").json["operators"]
        assert [(row["watermark_ms"], row["held_back_by"]) for row in rows] == [
            (None, [["orders", 0], ["orders", 2]])
        ] * 3


@pytest.mark.parametrize("idle_after", ["10s", "2s"])  # it is repeated every 2.5 s, or every second
def test_behind_group_by_timers_fire_in_silence_when_all_source_partitions_are_idle(idle_after: str) -> None:
    with World(lambda: reminding(idle_after=idle_after)) as world:
        for order in records():
            world.send("orders", order, key=order["shop"])
        world.settle()
        world.advance("30s")
        world.settle()
        some = world.topic("told").values
        assert len(some) < len(reminders(10_000))
        world.worker().kill()
        world.worker().start()
        world.advance("5m")
        world.settle()
        assert sorted(world.topic("told").values) == reminders(10_000)


def waiting(idle_after: str) -> anabranch.App:
    """Sets a timer for what a record says."""
    app = anabranch.App("waiting", topic_partitions=1)
    orders = app.topic("orders", time="at", time_unit="s", idle_after=idle_after, max_jump="1m", partitions=1)
    told = app.topic("told")

    @app.agent(orders, name="watch")
    async def watch(stream):
        async for order in stream.group_by(lambda order: order["user"], name="user"):
            if order["due"] is not None:
                app.at(order["due"] * 1000, key=order["user"], name="t")

    @watch.on_timer("t")
    async def fire(timer):
        await told.send(key="k", value=timer.due_ms // 1000)

    return app


@pytest.mark.parametrize("jump", [False, True])
@pytest.mark.parametrize("idle_after", ["20s", "200ms"])
def test_behind_group_by_time_goes_on_in_silence_at_the_pace_of_the_clock(idle_after: str, jump: bool) -> None:
    with World(lambda: waiting(idle_after)) as world:

        def send(at: int, due: int | None = None) -> None:
            world.send("orders", {"user": "u", "at": at, "due": due})

        def told_after(duration: str) -> list[int]:
            world.advance(duration)
            world.settle()
            return world.topic("told").values

        send(0)
        send(1, 101)
        if jump:
            send(1_000)
        assert told_after("90s") == []
        assert told_after("60s") == [101]
        send(2_000)
        send(2_001, 2_101)  # the silence begins anew
        assert told_after("90s") == [101]
        assert told_after("60s") == [101, 2_101]


@pytest.mark.parametrize("bounded", [False, True])
def test_of_several_source_partitions_worlds_with_faults_fire_the_same_timers(bounded: bool) -> None:
    simulation = Simulation(
        reminding,
        inputs={"orders": [(order["shop"], order) for order in records()]},
        seeds=5,
        faults="kill,abort,lost-answer,rebalance",
        bounded=bounded,
    )
    assert simulation.same_as_without_faults().worlds


def test_the_verification_of_a_run_names_timers_behind_group_by_of_several_partitions() -> None:
    def reasons(make: Callable[[], anabranch.App]) -> list[str]:
        with World(make) as world:
            for order in records()[:9]:
                world.send("orders", {**order, "paid": False}, key=order["user"])
            world.settle()
            with world.environment.entered():
                left = timers_left(world.environment.kafka.cluster(), make())
            # Not the row with the time, which is no timer.
            assert left.unfired == {"watch": len(world.table("watch-timers"))} != {"watch": 0}
            return left.reasons

    (reason,) = reasons(reminding)
    assert reason.startswith("agent watch has timers behind group_by of several partitions")
    assert reasons(lambda: timer_programs.app_of(by_key=True)) == []
    assert reasons(timer_programs.app_of) == []


def test_a_run_of_no_records_may_end_before_the_table_of_timers_has_a_changelog() -> None:
    with World(lambda: anabranch.App("other")) as world, world.environment.entered():
        cluster, app = world.environment.kafka.cluster(), reminding()
        assert timers_left(cluster, app, may_be_new=True) == TimersLeft({"watch": 0}, [])
        with pytest.raises(Usage, match="no changelog"):
            timers_left(cluster, app)
