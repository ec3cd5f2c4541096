"""Inputs of a bounded run that are aligned by event time have one result, whatever is fetched or committed first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anabranch
import pytest
from aligned_programs import NOON_S, TOPICS, Record, app_of, expected, records
from anabranch import Stream, World
from anabranch.agents.engine.settings import EngineSettings
from anabranch.replay.testing.simulation import Simulation
from anabranch.replay.testing.world_feed import Input
from anabranch.replay.testing.world_run import WorldRun
from anabranch.topics.errors import Usage

PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from aligned_programs import app_of
app = app_of({partitions})
"""


def run_of(
    folder: Path,
    made: list[Record],
    *,
    partitions: int = 3,
    workers: int = 1,
    seed: int = 0,
    order: tuple[str, ...] = TOPICS,
) -> WorldRun:
    program = folder / "program.py"
    program.write_text(PROGRAM.format(folder=str(Path(__file__).parent), partitions=partitions))
    inputs = {topic: folder / f"{topic}.jsonl" for topic in order}
    for topic, file in inputs.items():
        file.write_text(
            "".join(json.dumps({**value, "at": NOON_S + at}) + "\n" for name, at, value in made if name == topic)
        )
    with World(str(program), seed=seed) as world:
        return world.run(inputs, key="user", time="at", workers=workers)


@pytest.mark.parametrize(("partitions", "workers", "seed"), [(1, 1, 1), (3, 1, 2), (3, 2, 3), (4, 3, 4)])
def test_agents_that_look_into_each_other_s_tables_see_records_in_the_order_of_time(
    partitions: int, workers: int, seed: int, tmp_path: Path
) -> None:
    made = records()
    seen, alerts = expected(made)
    run = run_of(tmp_path, made, partitions=partitions, workers=workers, seed=seed)
    assert run.tables["seen"] == seen
    assert len(run.topics["alerts"].values) == alerts


def test_the_order_of_the_inputs_on_the_command_line_does_not_matter(tmp_path: Path) -> None:
    made = records(80)
    run = run_of(tmp_path, made, order=TOPICS[::-1])
    assert run.tables["seen"] == expected(made)[0]


def test_without_time_the_topics_are_not_aligned(tmp_path: Path) -> None:
    made = [("orders", 1, {"user": "ann", "order": 1}), ("payments", 2, {"user": "ann", "order": 1})]
    run_of(tmp_path, made)  # writes the files
    inputs = {topic: tmp_path / f"{topic}.jsonl" for topic in ("payments", "orders")}
    with World(str(tmp_path / "program.py")) as world:
        run = world.run(inputs, key="user")
    assert run.tables["seen"]["ann"][0][0] in ("alert", "order")


def test_an_input_without_records_is_not_waited_for(tmp_path: Path) -> None:
    made = [record for record in records(60) if record[0] != "users"]
    assert run_of(tmp_path, made, workers=2).tables["seen"] == expected(made)[0]


def test_packed_batches_and_times_that_are_missing_are_refused(tmp_path: Path) -> None:
    run_of(tmp_path, records(10))
    inputs = {topic: tmp_path / f"{topic}.jsonl" for topic in TOPICS}
    with World(str(tmp_path / "program.py")) as world, pytest.raises(Usage, match="not aligned in packed batches"):
        world.run(inputs, key="user", time="at", pack="lz4")


WINDOWED = """
import anabranch
from anabranch import Count, Stream, Tumbling

app = anabranch.App("shop", topic_partitions=3)
orders = app.topic("orders", time="at", time_unit="s", grace="0s", partitions=3)
payments = app.topic("payments", partitions=3)
rates = app.{kind}("rates", default=int)
orders.key_by("user").window(Tumbling("10s")).aggregate("by-user", n=Count()).final().to("finals")

@app.agent(orders)
async def order(stream: Stream) -> None:
    async for order in stream:
        rates[order["user"]] += 1

@app.agent(payments)
async def pay(stream: Stream) -> None:
    async for payment in stream:
        rates[payment["user"]] *= 2
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_windows_of_an_aligned_input_close_at_its_end(workers: int, tmp_path: Path) -> None:
    made = [record for record in records(120) if record[0] != "users"]
    run_of(tmp_path, made)  # writes the files
    (tmp_path / "program.py").write_text(WINDOWED.format(kind="Table"))
    inputs = {topic: tmp_path / f"{topic}.jsonl" for topic in ("orders", "payments")}
    with World(str(tmp_path / "program.py")) as world:
        run = world.run(inputs, key="user", time="at", workers=workers)
    rates, counts = dict[str, int](), dict[tuple[str, int], int]()
    for topic, at, value in sorted(made, key=lambda one: (one[1], TOPICS.index(one[0]))):
        user = value["user"]
        rates[user] = rates.get(user, 0) + 1 if topic == "orders" else rates.get(user, 0) * 2
        if topic == "orders":
            window = (user, (NOON_S + at) // 10 * 10_000)
            counts[window] = counts.get(window, 0) + 1
    assert run.tables["rates"] == rates
    assert {(final["key"], final["start"]): final["n"] for final in run.topics["finals"].values} == counts


def test_an_app_with_a_global_table_is_refused(tmp_path: Path) -> None:
    run_of(tmp_path, records(10))
    (tmp_path / "program.py").write_text(WINDOWED.format(kind="GlobalTable"))
    inputs = {topic: tmp_path / f"{topic}.jsonl" for topic in ("orders", "payments")}
    with World(str(tmp_path / "program.py")) as world, pytest.raises(Usage, match=r"GlobalTable \(rates\)") as refused:
        world.run(inputs, key="user", time="at")
    assert "--then" in str(refused.value.hint)


def inputs_of(made: list[Record]) -> dict[str, list[Input]]:
    return {
        topic: [Input(value, value["user"], (NOON_S + at) * 1000) for name, at, value in made if name == topic]
        for topic in TOPICS
    }


@pytest.mark.parametrize(("store", "bad", "seeds"), [("memory://", False, 12), ("memory://", True, 12)])
def test_worlds_with_faults_have_the_same_result(store: str, bad: bool, seeds: int) -> None:
    made = records(150, bad=bad)
    simulation = Simulation(
        lambda: app_of(store=store), inputs=inputs_of(made), seeds=seeds, bounded=True, aligned=True
    )
    report = simulation.same_as_without_faults()
    assert report.worlds >= seeds
    assert not report.failures


def live_app(align_s: float | None) -> anabranch.App:
    app = anabranch.App("live", topic_partitions=1, settings=EngineSettings(align_s=align_s))
    orders, payments = app.topic("orders"), app.topic("payments")
    seen = app.Table("seen", default=list)

    @app.agent(orders)
    async def order(stream: Stream[Any]) -> None:
        async for order in stream:
            seen["ann"] = [*seen["ann"], order]

    @app.agent(payments)
    async def pay(stream: Stream[Any]) -> None:
        async for payment in stream:
            seen["ann"] = [*seen["ann"], payment]

    return app


@pytest.mark.parametrize("align_s", [120.0, None])
def test_live_records_wait_for_earlier_ones_of_other_topics_for_a_time(align_s: float | None) -> None:
    with World(lambda: live_app(align_s), start="2026-01-31T12:00:00Z") as world:

        def send(topic: str, second: int) -> None:
            world.send(topic, second, key="ann", at=f"2026-01-31T11:59:{second:02}Z")

        send("orders", 2)
        world.advance("1m")
        send("payments", 1)
        world.settle()
        assert world.table("seen")["ann"] == ([1, 2] if align_s else [2, 1])
        send("orders", 3)  # the payments are silent
        world.advance("1m")
        assert world.table("seen")["ann"][2:] == ([] if align_s else [3])
        world.advance("3m")
        assert world.table("seen")["ann"][2:] == [3]
        send("orders", 5)
        world.settle()
        send("payments", 4)  # too late to be before it
        world.settle()
        assert world.table("seen")["ann"][2:] == [3, 5, 4]
