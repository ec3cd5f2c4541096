"""Simulations: each world with faults ends as one without, a seed repeats a world, and a failure is explained."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anabranch
import pytest
from anabranch.replay.testing.faults import Plan
from anabranch.replay.testing.simulation import Simulation
from anabranch.topics import clock
from anabranch.topics.errors import Usage
from world_programs import PROGRAMS, bank


def simulation(program: str, **options: Any) -> Simulation:
    return PROGRAMS[program].simulation(**options)


@pytest.mark.parametrize(
    ("program", "seeds"),
    [
        ("bank", 16),
        ("pages", 10),
        ("speeds", 8),
        ("retries", 5),
        ("bank with KIP-848", 5),
        ("bank at least once", 4),
        ("ticks", 5),
        ("bounded", 5),
        ("bank on disk", 2),
    ],
)
def test_worlds_with_faults_end_as_those_without(program: str, seeds: int) -> None:
    report = simulation(program, seeds=seeds).same_as_without_faults()
    assert report.worlds == seeds
    assert sum(report.faults.values()) >= seeds


def test_outputs_of_a_revoke_that_could_not_commit_are_not_committed_later() -> None:
    #   w0:  ─ records ─ revoked: its commit is refused, for a copy has its group.instance.id ─ records again ─▶
    for seed in (107, 1, 2, 3):
        simulation("pages", seeds=[seed], plan="fence:consumer w0 before produce 3").same_as_without_faults()


def test_at_least_once_a_worker_starts_again_after_its_first_epoch_was_not_committed() -> None:
    for seed in (4, 20, 58):
        plan = "fence:consumer w0 before produce 2; fence:consumer w1 before produce 2; kill:restart w0 before commit 1"
        simulation("bank at least once", seeds=[seed], plan=plan).same_as_without_faults()


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_partition_that_is_revoked_while_its_assignment_is_taken_over_is_not_active(seed: int) -> None:
    #   w0:  ─ assigned 0-3, looks up offsets for a second ─ revoked 0-3 ─ assigned 0 1 ─▶ 2 3 are not its own
    #   w1:  ──────────────────────────── joins ──────────────────────── assigned 2 3 ─▶
    plan = "lost-answer:1s w0 after committed 1; lost-answer:1s w1 after committed 1"
    simulation("bank", seeds=[seed, seed + 33], plan=plan).same_as_without_faults()


def test_a_worker_whose_transactions_took_too_long_twice_in_a_minute_goes_on() -> None:
    # The program would report again what a worker has reported that stops.
    slow = "lost-request:10s w0 before commit_transaction"
    simulation("ticks", seeds=[53008], plan=f"{slow} 8; {slow} 10").same_as_without_faults()


def test_a_worker_that_ends_while_no_broker_answers_does_not_stay_a_member_of_its_group() -> None:
    away, left = "broker-away:15s w1", "rebalance:join w0 after store 2; rebalance:leave w0 before consume 6"
    plan = f"{away} after commit_transaction 3; {left}; {away} before flush 1"
    simulation("bank with KIP-848", seeds=[11], plan=plan).same_as_without_faults()


def test_a_seed_repeats_a_world() -> None:
    made = simulation("bank", faults="kill,rebalance,broker-away")
    worlds = [made.world(seed) for seed in (5, 5, 6)]
    for world in worlds:
        world.run()
    logs = [str(world.log) for world in worlds]
    assert logs[0] == logs[1] != logs[2]
    assert "fault" in logs[0]


LOGS = """
import sys
sys.path.insert(0, sys.argv[1])
from anabranch.replay.testing.simulation import Simulation
from world_programs import PROGRAMS
for name in ("bank", "pages"):
    program = PROGRAMS[name]
    made = Simulation(program.app, inputs=program.inputs)
    for seed in (1, 2, 3):
        world = made.world(seed)
        world.run()
        print(name, seed, len(world.log), world.log.digest)
"""


def test_a_seed_repeats_a_world_in_any_process() -> None:
    # The order of sets of strings follows from PYTHONHASHSEED.
    logs = [
        subprocess.run(
            [sys.executable, "-c", LOGS, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert logs[0] == logs[1]
    assert logs[0].count("\n") == 6


def telling() -> anabranch.App:
    """Tells the outside world of each record, which does not forget it after a rollback."""
    app = anabranch.App("telling", topic_partitions=4)
    seen = app.Table("seen", default=int)
    producer: list[Any] = []

    @app.agent(app.topic("clicks", key_type=str), name="tell")
    async def tell(stream: Any) -> None:
        async for key, click in stream.items():
            seen[key] += 1
            if not producer:
                producer.append(app._runtime.cluster.producer())  # pyright: ignore[reportPrivateUsage]
            producer[0].produce("told", click["page"], key)

    return app


def test_a_failure_shows_its_seed_the_fewest_faults_and_the_lines_that_repeat_it() -> None:
    options: Any = {"inputs": PROGRAMS["pages"].inputs, "faults": "abort", "partitions": {"told": 1}}
    made = Simulation(telling, seeds=20, **options)
    with pytest.raises(AssertionError) as raised:
        made.same_as_without_faults()
    text = str(raised.value)
    assert "the outcome differs from that of a world without faults\n  topic told: 'u" in text
    assert " too often" in text
    assert "faults (1 of " in text
    assert "  abort:" in text
    lines = text.splitlines()
    again = [line for line in lines if line.startswith("  pytest ")]
    assert "test_simulation.py::test_a_failure_shows_its_seed" in again[0]
    assert " --anabranch-seed=" in again[0]
    shortest = Plan.parse(again[-1].partition("--anabranch-plan=")[2].strip("'")) if len(again) > 1 else None
    seed = int(again[0].partition("--anabranch-seed=")[2])
    repeated = Simulation(telling, seeds=[seed], plan=shortest, **options)
    assert repeated.run(shrunk=False).failures


def test_a_changelog_that_is_cut_at_its_beginning_stops_a_worker_with_an_error_instead_of_a_wrong_table() -> None:
    plan = "cut w0 before commit_transaction 3; kill:restart w0 before commit_transaction 4"
    made = simulation("bank", seeds=[1, 2], plan=plan, faults="cut")
    for seed in (1, 2):
        outcome = made.world(seed).run()
        assert len(outcome.wrong) == 1
        assert "not at rest" in outcome.wrong[0]
        assert "records were deleted, and table" in outcome.wrong[0]


def unstable() -> anabranch.App:
    """The last user of a page: that of whichever partition comes last."""
    app = anabranch.App("last", topic_partitions=4)
    incoming = app.topic("clicks", key_type=str)
    last = app.Table("last")

    @app.agent(incoming, name="remember")
    async def remember(stream: Any) -> None:
        async for click in stream.group_by(lambda click: click["page"], name="page"):
            last[click["page"]] = click["user"]

    return app


def test_a_record_that_is_lost_although_it_is_reported_as_delivered_is_sent_again() -> None:
    report = simulation(
        "bank", seeds=[1], plan="lost-record w0 before produce 1; lost-record w1 before produce 4"
    ).run()
    assert report.failures == []
    assert report.faults == {"lost-record": 2}


def test_a_worker_whose_commits_are_all_refused_stops_with_an_error_and_starts_again() -> None:
    world = simulation("bounded").world(1, Plan.parse("abort-all:30s w0 before commit_transaction 2"))
    outcome = world.run()
    assert outcome.wrong == []
    ends = [text for worker in world._workers for text in worker.ends]
    assert ends
    assert all("5 epochs in a row could not be committed" in end for end in ends)


def test_at_the_end_of_a_bounded_run_take_gives_what_it_holds_back() -> None:
    program = PROGRAMS["bounded"]
    live = Simulation(program.app, inputs=program.inputs)
    with pytest.raises(AssertionError, match="records left: clicks"):
        live.same_as_without_faults()


def test_an_app_whose_outcome_depends_on_scheduling_is_told_so() -> None:
    inputs = PROGRAMS["pages"].inputs
    with pytest.raises(AssertionError, match="depends on the order in which records of different partitions") as raised:
        Simulation(unstable, inputs=inputs, seeds=1).same_as_without_faults()
    assert "table last: " in str(raised.value)
    Simulation(unstable, inputs=inputs, seeds=1, ignore=["last"]).same_as_without_faults()


def flowing() -> anabranch.App:
    app = anabranch.App("flowing", topic_partitions=4)
    app.topic("clicks", key_type=str).key_by("page").aggregate("pages", clicks=anabranch.Count())
    return app


def test_a_flow_with_another_key_needs_no_ignore() -> None:
    # Its partial results are one for each key and epoch, and epochs end elsewhere in each world.
    clicks = [(f"u{n % 6}", {"page": f"p{n % 5}"}) for n in range(120)]
    assert Simulation(flowing, inputs={"clicks": clicks}, seeds=3).same_as_without_faults().worlds == 3


def failing() -> anabranch.App:
    app = anabranch.App("failing", topic_partitions=4)

    @app.agent(app.topic("clicks", key_type=str), name="fail")
    async def fail(stream: Any) -> None:
        async for _ in stream:
            raise ValueError("no")

    return app


def numbering() -> anabranch.App:
    """Numbers its outputs in a header, by a variable that is not rolled back."""
    app = anabranch.App("numbering", topic_partitions=4)
    copies, numbers = app.topic("copies", key_type=str), dict[str, int]()

    @app.agent(app.topic("clicks", key_type=str), name="number")
    async def number(stream: Any) -> None:
        async for user, click in stream.items():
            numbers[user] = numbers.get(user, 0) + 1
            await copies.send(key=user, value=click, headers={"number": str(numbers[user]).encode()})

    return app


def test_headers_are_part_of_the_outcome() -> None:
    clicks = [("ann", n) for n in range(60)]
    made = Simulation(numbering, inputs={"clicks": clicks}, workers=1, faults="abort", seeds=10)
    with pytest.raises(AssertionError, match=r"topic copies: other headers: 'ann' → "):
        made.same_as_without_faults()


def stamping() -> anabranch.App:
    app = anabranch.App("stamping", topic_partitions=2)
    copies, plain = app.topic("copies", key_type=str), app.topic("plain")

    @app.agent(app.topic("clicks", key_type=str), name="stamp")
    async def stamp(stream: Any) -> None:
        async for user, click in stream.items():
            await copies.send(key=user, value=click, headers={"at": str(clock.now_ms() // 1000).encode()})
            await plain.send(value=click)

    return app


@pytest.mark.parametrize("count", [1, 2, 3])
def test_headers_that_are_the_same_in_a_few_worlds_by_chance_are_no_difference(count: int) -> None:
    """So are partitions of records without a key."""
    clicks = [("ann", n) for n in range(count)]
    assert Simulation(stamping, inputs={"clicks": clicks}, seeds=20).same_as_without_faults().worlds == 20


def test_the_report_counts_the_dead_letters_that_belong_to_the_result() -> None:
    clicks = [("ann", {"page": n}) for n in range(3)]
    report = Simulation(failing, inputs={"clicks": clicks}, seeds=1).same_as_without_faults()
    assert report.dead_letters == {"clicks.dlq": 3}
    assert str(report).endswith("; 3 records in clicks.dlq")


def copying() -> anabranch.App:
    app = anabranch.App("slow", topic_partitions=4, processing_guarantee="at_least_once")
    counts, copies = app.Table("counts", default=int), app.topic("copies", key_type=str)

    @app.agent(app.topic("clicks", key_type=str), name="count")
    async def count(stream: Any) -> None:
        async for user, click in stream.items():
            counts[user] += 1
            await copies.send(key=user, value=click)

    return app


def test_a_world_is_not_at_rest_before_all_records_have_arrived() -> None:
    #   w0:  ─ records ─ produce lasts 10 s ─ commit ─ records that have arrived meanwhile ─ commit ─▶ store
    clicks = [(f"u{n % 6}", {"page": f"p{n}"}) for n in range(120)]
    plan = "abort:timeout w0 before produce 20"
    Simulation(copying, inputs={"clicks": clicks}, seeds=[2, 7], plan=plan).same_as_without_faults()


def stuck() -> anabranch.App:
    app = anabranch.App("stuck", topic_partitions=4)

    @app.agent(app.topic("clicks", key_type=str), name="wait")
    async def wait(stream: Any) -> None:
        async for _ in stream:
            await asyncio.Event().wait()

    return app


def test_an_app_that_does_not_come_to_rest_is_told_what_is_left() -> None:
    with pytest.raises(AssertionError, match=r"not at rest.*records left: clicks\[0\]: "):
        Simulation(stuck, inputs={"clicks": [("a", 1)]}, seeds=1).same_as_without_faults()


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda: Simulation(bank, inputs={}), "without inputs"),
        (lambda: Simulation(bank, inputs={"transfers": [1]}, faults="kil"), "no kind of fault"),
        (lambda: Simulation(bank, inputs={"transfers": [1]}, plan="kill"), "not a fault"),
    ],
)
def test_what_is_asked_wrongly_is_refused(made: Callable[[], Simulation], text: str) -> None:
    with pytest.raises(Usage, match=text):
        made()
