"""Timers of agents: when they fire, what they see, and that they fire once wherever commits and faults fall.

Times are seconds since 1970. `told` in the tables below is what the agent and its timers have sent, in order.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anabranch
import pytest
import timer_programs
from anabranch import World
from anabranch.agents.engine.settings import EngineSettings
from anabranch.replay.testing.simulation import Simulation
from anabranch.topics.errors import Usage

Steps = list[dict[str, Any]]


def declared(
    *, partitions: int = 1, idle_after: str | None = None, topics: tuple[str, ...] = ("steps",), **settings: Any
) -> tuple[anabranch.App, anabranch.Topic[Any, Any]]:
    """Return an app and its topic `steps`, which the agent with timers reads, perhaps with others."""
    app = anabranch.App("timers", topic_partitions=partitions, **settings)
    return app, app.topic(*topics, time="at", time_unit="s", idle_after=idle_after, partitions=partitions)


def program(**settings: Any) -> anabranch.App:
    """An agent whose records say what to do: set or cancel a timer, fail. It tells in topic `told` what happens."""
    app, steps = declared(**settings)
    told = app.topic("told")
    seen = app.Table("seen", default=int)

    @app.agent(steps, name="watch")
    async def watch(stream):
        async for step in stream:
            seen["records"] += 1
            await told.send(key="k", value=f"record {step['at']}")
            for due, name, *more in step.get("set", ()):
                app.at(due * 1000, key="k", name=name, payload={"more": more})
            for name in step.get("cancel", ()):
                app.cancel(key="k", name=name)
            if step.get("fails"):
                raise ValueError("refused")

    async def fire(timer):
        seen["timers"] += 1
        (more,) = timer.payload["more"] or [None]
        await told.send(key="k", value=f"{timer.name} {timer.due_ms // 1000} after {seen['records']}")
        if more == "again":
            app.at(timer.due_ms + 10_000, key="k", name=timer.name, payload=timer.payload)
        if isinstance(more, int):
            app.at(more * 1000, key="k", name="a", payload={"more": []})
        if isinstance(more, list):
            due, name, *rest = more
            app.at(due * 1000, key="k", name=name, payload={"more": rest})
        if more == "fails":
            seen["failed"] += 1
            timer.payload["more"].append("changed in vain")
            raise ValueError("no such luck")

    for name in ("a", "b"):
        watch.on_timer(name)(fire)
    return app


def told(steps: Steps, make: Callable[[], anabranch.App] = program, *, settle_each: bool = False) -> list[Any]:
    with World(make) as world:
        for step in steps:
            world.send("steps", step, key="k")
            if settle_each:
                world.settle()
        world.settle()
        return world.topic("told").values


def at(time: int, *, set: Any = (), cancel: Any = (), fails: bool = False) -> dict[str, Any]:
    return {"at": time, "set": set, "cancel": cancel, "fails": fails}


# Named behaviours ---------------------------------------------------------------------------------------------------

each_commit = pytest.mark.parametrize("settle_each", [False, True], ids=["one-epoch", "a-commit-each"])


@each_commit
def test_a_timer_fires_before_the_record_that_passes_it_is_handed_out(settle_each: bool) -> None:
    steps = [at(1), at(5, set=[(20, "a")]), at(19), at(25), at(26)]
    assert told(steps, settle_each=settle_each) == [
        "record 1",
        "record 5",
        "record 19",
        "a 20 after 3",
        "record 25",
        "record 26",
    ]


@each_commit
def test_a_timer_in_the_past_fires_behind_the_record_at_hand(settle_each: bool) -> None:
    steps = [at(1), at(30, set=[(20, "b"), (30, "a")]), at(31)]
    assert told(steps, settle_each=settle_each) == [
        "record 1",
        "record 30",
        "b 20 after 2",
        "a 30 after 2",
        "record 31",
    ]


@each_commit
def test_timers_are_replaced_and_cancelled_by_key_and_name(settle_each: bool) -> None:
    steps = [at(1), at(5, set=[(10, "a"), (11, "b")]), at(6, set=[(20, "a")], cancel=["b"]), at(15), at(21)]
    assert told(steps, settle_each=settle_each)[3:] == ["record 15", "a 20 after 4", "record 21"]


@each_commit
@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ((), ("fails",), ["a 20", "b 21"]),
        (("fails",), (), ["b 21", "a 20"]),
        (("fails",), ("fails",), ["b 21"]),
        ((), (), ["a 20", "b 21", "a 20"]),
    ],
)
@pytest.mark.parametrize("topics", [("steps",), ("steps", "others")], ids=["one-topic", "two-topics"])
def test_a_timer_that_is_set_again_for_the_time_at_which_it_has_fired_is_another_one(
    first: tuple[str, ...], second: tuple[str, ...], found: list[str], topics: tuple[str, ...], settle_each: bool
) -> None:
    with World(lambda: program(topics=topics)) as world:
        for topic in topics[1:]:
            for time in (900, 901):
                world.send(topic, at(time), key="k")
        for step in (at(1), at(5, set=[(20, "a", *first), (21, "b", [20, "a", *second])]), at(25), at(26)):
            world.send("steps", step, key="k")
            if settle_each:
                world.settle()
        world.settle()
        told = [text for text in world.topic("told").values if not text.startswith("record")]
        assert [text.partition(" after")[0] for text in told] == found
        failed = (*first, *second).count("fails")
        assert len(world.topic("steps.dlq").values if failed else ()) == failed


@pytest.mark.parametrize("most", [1, 2, 3, 4])
@pytest.mark.parametrize("topics", [("steps",), ("steps", "others")], ids=["one-topic", "two-topics"])
def test_a_timer_is_set_again_for_the_time_at_which_one_has_failed_and_fires_while_the_failure_is_committed(
    topics: tuple[str, ...], most: int
) -> None:
    with World(lambda: program(topics=topics, settings=EngineSettings(max_outputs=most))) as world:
        for topic in topics[1:]:
            for time in (900, 901):
                world.send(topic, at(time), key="k")
        for step in (at(1), at(5, set=[(20, "a", "fails"), (21, "b", [20, "a"])]), at(25), at(26)):
            world.send("steps", step, key="k")
        world.settle()
        told = [text for text in world.topic("told").values if not text.startswith("record")]
        assert [text.partition(" after")[0] for text in told] == ["b 21", "a 20"]
        assert [letter.value["payload"] for letter in world.dead_letters("steps")] == [{"more": ["fails"]}]


@each_commit
def test_timers_fire_in_the_order_in_which_they_are_due(settle_each: bool) -> None:
    steps = [at(1), at(2, set=[(20, "b", "again"), (25, "a")]), at(45)]
    assert told(steps, settle_each=settle_each)[2:] == [
        "b 20 after 2",
        "a 25 after 2",
        "b 30 after 2",
        "b 40 after 2",
        "record 45",
    ]


@pytest.mark.parametrize("store", ["memory://", "rocksdb://"])
def test_a_timer_of_a_worker_that_was_killed_fires_once_before_the_record_that_passes_it(store: str) -> None:
    with World(lambda: program(store=store)) as world:
        for step in (at(1), at(5, set=[(20, "a")])):
            world.send("steps", step, key="k")
        world.settle()
        world.worker().kill()
        world.send("steps", at(25), key="k")
        world.worker().start()
        world.settle()
        world.worker().kill()
        world.worker().start()
        world.settle()
        assert world.topic("told").values == ["record 1", "record 5", "a 20 after 2", "record 25"]
        assert world.topic("told").records[2].timestamp_ms == 20_000, "what a timer sends has the time it was due"
        assert world.table("seen") == {"records": 3, "timers": 1}
        assert world.table("watch-timers") == {}


@each_commit
def test_a_record_that_fails_sets_no_timers_and_moves_time(settle_each: bool) -> None:
    steps = [at(1), at(5, set=[(20, "a"), (21, "b")]), at(20, set=[(22, "b")], fails=True), at(21), at(22)]
    assert told(steps, settle_each=settle_each)[2:] == ["a 20 after 2", "b 21 after 2", "record 21", "record 22"]


@each_commit
def test_a_timer_that_fails_is_rolled_back_alone_and_goes_to_the_dead_letters(settle_each: bool) -> None:
    with World(program) as world:
        for step in [at(1), at(5, set=[(20, "a", "fails"), (21, "b")]), at(30, set=[(31, "a", "fails")]), at(40)]:
            world.send("steps", step, key="k")
            if settle_each:
                world.settle()
        world.settle()
        assert world.topic("told").values == ["record 1", "record 5", "b 21 after 2", "record 30", "record 40"]
        assert world.table("seen") == {"records": 4, "timers": 1}
        letters = world.dead_letters("steps")
    assert [(letter.key, letter.value) for letter in letters] == [
        (b"k", {"timer": "a", "key": "k", "due": due, "payload": {"more": ["fails"]}}) for due in (20_000, 31_000)
    ]
    assert [letter.reason for letter in letters] == ["timer", "timer"]
    assert "no such luck" in letters[0].error


def test_a_timer_that_fails_after_it_has_waited_goes_to_the_dead_letters_too() -> None:
    import asyncio

    def make() -> anabranch.App:
        app = program()

        async def fire(timer):
            await app.topic("told").send(key="k", value=f"{timer.name} {timer.due_ms // 1000}")
            await asyncio.sleep(0.2)
            if timer.payload["more"]:
                raise ValueError("no such luck")

        app.agents["watch"].on_timer("slow")(fire)
        return app

    with World(make) as world:
        for step in [at(1), at(5, set=[(20, "slow", "fails"), (21, "b")]), at(30), at(31)]:
            world.send("steps", step, key="k")
        world.settle()
        assert world.topic("told").values == ["record 1", "record 5", "b 21 after 2", "record 30", "record 31"]
        assert [letter.reason for letter in world.dead_letters("steps")] == ["timer"]


def test_a_timer_that_fails_is_a_dead_letter_although_the_agent_catches_its_error() -> None:
    calls: list[int] = []

    def make() -> anabranch.App:
        app, steps = declared()

        @app.agent(steps, name="watch")
        async def watch(stream):
            while True:
                try:
                    async for step in stream:
                        app.at((step["at"] + 5) * 1000, key="k", name="a")
                except ValueError:
                    pass

        @watch.on_timer("a")
        async def a(timer):
            calls.append(timer.due_ms)
            if len(calls) < 20:
                raise ValueError("no such luck")

        return app

    with World(make) as world:
        for time in (1, 2, 30, 31):
            world.send("steps", {"at": time}, key="k")
        world.settle()
        assert [letter.reason for letter in world.dead_letters("steps")] == ["timer"]
        assert calls == [7_000]


def test_a_timer_that_fails_in_silence_is_a_dead_letter_although_another_partition_goes_on() -> None:
    calls: list[int] = []

    def make() -> anabranch.App:
        app, steps = declared(partitions=2, idle_after="4s")
        seen = app.Table("seen", default=int, local=True)

        @app.agent(steps, name="watch")
        async def watch(stream):
            async for step in stream:
                seen["records"] += 1
                if step["set"]:
                    app.at((step["at"] + 5) * 1000, key="k", name="a")

        @watch.on_timer("a")
        async def a(timer):
            seen["timers"] += 1
            calls.append(timer.due_ms)
            raise ValueError("no such luck")

        return app

    with World(make) as world:
        for time in (1, 2):
            world.send("steps", {"at": time, "set": time == 2}, key="k", partition=1)
        for second in range(40):
            world.send("steps", {"at": 100 + second, "set": False}, key="j", partition=0)
            world.advance("1s")
        assert [letter.reason for letter in world.dead_letters("steps")] == ["timer"]
        assert calls == [7_000]


def test_records_that_fail_do_not_end_the_silence_of_another_partition() -> None:
    def make() -> anabranch.App:
        app, steps = declared(partitions=2, idle_after="4s")

        @app.agent(steps, name="watch")
        async def watch(stream):
            async for step in stream:
                if step["fails"]:
                    raise ValueError("refused")
                app.at((step["at"] + 5) * 1000, key="k", name="a")

        @watch.on_timer("a")
        async def a(timer):
            await app.topic("told").send(key="k", value=timer.due_ms)

        return app

    with World(make) as world:
        for time in (1, 2):
            world.send("steps", {"at": time, "fails": False}, key="k", partition=1)
        for second in range(20):
            world.send("steps", {"at": 100 + second, "fails": True}, key="j", partition=0)
            world.advance("1s")
        assert world.topic("told").values == [7_000]


def test_timers_fire_in_silence_when_the_partition_is_idle() -> None:
    def make() -> anabranch.App:
        app, steps = declared(idle_after="1m")

        @app.agent(steps, name="watch")
        async def watch(stream):
            async for step in stream:
                app.at((step["at"] + 30) * 1000, key="k", name="a")

        fired = app.Table("fired", default=int)

        @watch.on_timer("a")
        async def a(timer):
            fired[timer.due_ms] += 1

        return app

    with World(make) as world:
        world.send("steps", {"at": 100}, key="k")
        world.send("steps", {"at": 110}, key="k")
        world.settle()
        assert world.table("fired") == {}
        world.advance("70s")
        world.settle()
        assert world.table("fired") == {}
        world.advance("40s")
        world.settle()
        assert world.table("fired") == {140_000: 1}
        world.worker().kill()
        world.worker().start()
        world.advance("5m")
        world.settle()
        assert world.table("fired") == {140_000: 1}


# The end of a bounded run's input -----------------------------------------------------------------------------------

FILE = """
import sys
sys.path.insert(0, {folder!r})
from test_timers import program
app = program()
"""


def run(steps: Steps, folder: Path, **options: Any) -> Any:
    file, source = folder / "steps.jsonl", folder / "app.py"
    file.write_text("".join(json.dumps({**step, "key": "k"}) + "\n" for step in steps))
    source.write_text(FILE.format(folder=str(Path(__file__).parent)))
    with World(str(source)) as world:
        return world.run({"steps": file}, key="key", **options)


@pytest.mark.parametrize("pack", [None, "lz4"])
def test_all_timers_fire_at_the_end_of_the_input(tmp_path: Path, pack: Any) -> None:
    steps = [at(1), at(5, set=[(90, "b"), (7, "a")]), at(6)]
    assert run(steps, tmp_path, pack=pack).topics["told"].values == [
        "record 1",
        "record 5",
        "record 6",
        "a 7 after 3",
        "b 90 after 3",
    ]


def test_a_timer_that_sets_itself_again_fires_up_to_the_end_of_the_input_and_the_rest_is_counted(
    tmp_path: Path,
) -> None:
    steps = [at(1), at(5, set=[(6, "a", "again")]), at(27), at(28, set=[(50, "b", "again")])]
    result = run(steps, tmp_path)
    assert result.topics["told"].values[2:] == [
        "a 6 after 2",
        "a 16 after 2",
        "a 26 after 2",
        "record 27",
        "record 28",
        "a 36 after 4",
        "b 50 after 4",
    ]
    assert result.tables["watch-timers"] == {
        ("k", name): {"due": due, "payload": {"more": ["again"]}, "late": True}
        for name, due in (("a", 46_000), ("b", 60_000))
    }


def test_a_timer_set_at_the_end_for_within_the_input_fires(tmp_path: Path) -> None:
    result = run([at(1), at(5, set=[(90, "b", 10)]), at(20)], tmp_path)
    assert result.topics["told"].values[3:] == ["b 90 after 3", "a 10 after 3"]
    assert result.tables["watch-timers"] == {}


def test_a_run_without_an_end_of_the_timers_input_is_refused() -> None:
    from anabranch.replay.runs.inputs_with_timers import refuse_timers

    with pytest.raises(Usage, match="the timers of agent watch go by topic steps, which has no input"):
        refuse_timers(program(), ["others"])
    with pytest.raises(Usage, match="--into-live with timers of agent watch"):
        refuse_timers(program(), ["steps"], into_live=True)


# Any program, any faults --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [1, 7, 1000], ids=["a-commit-each", "some-commits", "one-epoch"])
@pytest.mark.parametrize("store", ["memory://", "rocksdb://"])
def test_timers_do_what_a_plain_computation_over_the_logs_does(each: int, store: str) -> None:
    records = timer_programs.orders(150 if each > 1 else 60)
    with World(lambda: timer_programs.app_of(store=store), workers=2) as world:
        for number, order in enumerate(records):
            world.send("orders", order, key=order["user"])
            if number % each == each - 1:
                world.settle()
        world.settle()
        twins = timer_programs.expected(records)
        assert world.table("seen") == {user: count for twin in twins for user, count in twin.seen.items()}
        told: dict[str, list[str]] = defaultdict(list)
        for record in world.topic("told").records:
            told[record.key].append(record.value)
        assert told == {user.encode(): lines for twin in twins for user, lines in twin.told.items()}
        assert {key: row["due"] for key, row in world.table("watch-timers").items()} == {
            timer: due * 1000 for twin in twins for timer, (due, _) in twin.timers.items()
        }
        assert len(world.dead_letters("orders")) == sum(twin.failed for twin in twins) > 5


@pytest.mark.parametrize("store", ["memory://", "rocksdb://"])
def test_worlds_with_faults_fire_the_same_timers(store: str) -> None:
    simulation = Simulation(
        lambda: timer_programs.app_of(store=store),
        inputs=timer_programs.inputs(timer_programs.orders()),
        seeds=10 if store == "memory://" else 4,
        faults="kill,abort,lost-answer,rebalance",
        ordered=["told"],
    )
    assert simulation.same_as_without_faults().worlds


def many(**settings: Any) -> anabranch.App:
    """Fires many timers at once, in epochs of five outputs."""
    app = anabranch.App("timers", topic_partitions=1, settings=EngineSettings(max_outputs=5, **settings))
    steps = app.topic("steps", time="at", time_unit="s", max_jump="10s", idle_after=None, partitions=1)
    told, fired = app.topic("told"), app.Table("fired", default=int)

    @app.agent(steps, name="watch")
    async def watch(stream):
        async for step in stream:
            fired["records"] += 1
            await told.send(key="k", value=f"record {step['at']}")
            for number in range(step["timers"]):
                app.at(10_000 + number // 2, key="k", name="many" if number else "one", payload=None)
                app.at(10_000 + number // 2, key=number, name="many")

    @watch.on_timer("many")
    async def fire(timer):
        fired["timers"] += 1
        await told.send(key="k", value=f"{timer.key} after {fired['records']}")

    watch.on_timer("one")(fire)
    return app


# The jumps: what a record that goes back into the queue makes of stream time must not count twice.
MANY = [{"at": at, "timers": timers} for at, timers in ((1, 0), (2, 40), (3, 0), (60, 0), (4, 0), (61, 0), (62, 0))]


def test_more_timers_than_an_epoch_may_hold_fire_in_several_and_in_order() -> None:
    with World(many) as world:
        for step in MANY:
            world.send("steps", step, key="k")
        world.settle()
        lines = world.topic("told").values
    assert [line for line in lines if line.startswith("record")] == [f"record {step['at']}" for step in MANY]
    # 60 alone is one wrong clock; 61 and 62 are not.
    assert lines[:6] == [f"record {step['at']}" for step in MANY[:6]]
    assert lines[-1] == "record 62"
    numbers = [int(line.split()[0]) for line in lines[6:-1] if not line.startswith("k")]
    assert sorted(numbers) == list(range(40))
    assert [number // 2 for number in numbers] == sorted(number // 2 for number in numbers)
    assert {line.split(" ", 1)[1] for line in lines[6:-1]} == {"after 6"}


def test_an_epoch_that_is_full_of_dead_letters_of_timers_ends_before_the_next_one_fires() -> None:
    steps = [at(1, set=[(5, "a", "fails"), (6, "b")]), at(10)]
    lines = told(steps, lambda: program(settings=EngineSettings(max_outputs=1)))
    assert lines == ["record 1", "b 6 after 1", "record 10"]


def test_faults_while_many_timers_fire_change_nothing() -> None:
    simulation = Simulation(
        many,
        inputs={"steps": [("k", step) for step in MANY]},
        seeds=6,
        faults="kill,abort,lost-answer,rebalance",
        ordered=["told"],
    )
    assert simulation.same_as_without_faults().worlds


@each_commit
def test_a_record_with_a_wrong_clock_that_fails_is_one_jump_although_it_is_redelivered(settle_each: bool) -> None:
    steps = [at(1), at(2, set=[(10, "a")]), at(90_000, fails=True), at(3), at(11)]
    assert told(steps, settle_each=settle_each)[2:] == ["record 3", "a 10 after 3", "record 11"]
