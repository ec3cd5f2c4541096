"""Random programs over tables give what plain dicts give, with all records in one epoch and with a commit after each.

`ANABRANCH_FUZZ_S` is how many seconds to go on (`make faults` gives it many), `ANABRANCH_FUZZ_SEED` where to begin.
What fails prints the smallest program that does, and its seed. Flows are held against Python in `test_random_flows.py`.
"""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.topics.topic_partition import TopicPartition
from random_tables import DEFAULTS, drawn, expected, run

SECONDS = float(os.environ.get("ANABRANCH_FUZZ_S", "1"))
SEED = int(os.environ.get("ANABRANCH_FUZZ_SEED", "1"))
PROGRAMS = 40

# One epoch that ends when it is told to; and one record an epoch.
ONE = EngineSettings(session_timeout_ms=6_000, epoch_s=600.0, commit_share=1e-6, max_failure_share=1.0)
EACH = EngineSettings(
    session_timeout_ms=6_000, epoch_s=0.001, backlog_records=1, batch_records=1, max_failure_share=1.0
)


def program_of(lab: Any, topic: str, settings: EngineSettings) -> tuple[Any, dict[tuple[int, int], Any]]:
    """An app that plays the records of a topic, and what they saw: (seed, number) -> that."""
    app = lab.app(lab.fresh("app"), worker=lab.fresh("worker"), topic_partitions=1, settings=settings)
    tables = {name: app.Table(name, default=default) for name, default in DEFAULTS.items()}
    seen: dict[tuple[int, int], Any] = {}

    @app.agent(app.topic(topic))
    async def play(stream: Any) -> None:
        async for seed, number, record in stream:
            seen[seed, number] = None
            seen[seed, number] = run(record, tables, f"{seed}-")

    return app, seen


def committed(lab: Any, topic: str, app: Any) -> bool:
    """Whether all records are; where they are handed over, the epoch is told to end."""
    runtime_of(app).raise_if_stopped()
    (end,) = lab.ends(topic).values()
    if runtime_of(app).status.committed.get(TopicPartition(topic, 0), 0) >= end:
        return True
    if runtime_of(app).status.records_total >= end:
        runtime_of(app).engine.hurry()
    return False


async def wrong(lab: Any, table_of: Any, seeds: range, *, failing: bool) -> list[str]:
    """Programs that do not give what dicts give, smallest first."""
    programs = {seed: drawn(seed, failing=failing) for seed in seeds}
    topic = lab.topic(1)
    longest = max(map(len, programs.values()))
    # Programs take turns, so that each has its records far apart.
    lab.produce(
        topic,
        [
            [seed, number, program[number]]
            for number in range(longest)
            for seed, program in programs.items()
            if number < len(program)
        ],
    )
    found: list[tuple[int, str]] = []
    for way, settings in (("one epoch", ONE), ("each", EACH)):
        app, seen = program_of(lab, topic, settings)
        async with lab.running(app):
            await lab.until(lambda run=app: committed(lab, topic, run), f"all of {topic} committed")
        tables = {name: table_of(app, name) for name in DEFAULTS}
        for seed, program in programs.items():
            want, saw = expected(program)
            prefix = f"{seed}-"
            have = {
                name: {key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)}
                for name, content in tables.items()
            }
            did = [seen[seed, number] for number in range(len(program))]
            if have != want or did != saw:
                lines = "\n".join(
                    f"  {record}\n    saw {a}, not {b}" for record, a, b in zip(program, did, saw, strict=True)
                )
                text = f"seed {seed}, {way}, failing={failing}:\n{lines}\n  {have}\n  instead of {want}"
                found.append((sum(map(len, program)), text))
    return [text for _, text in sorted(found)]


@pytest.mark.timeout(SECONDS + 180)
async def test_random_programs_over_tables_give_what_dicts_give(lab, table_of) -> None:
    deadline, seed = time.monotonic() + SECONDS, SEED
    while True:
        for failing in (False, True):
            found = await wrong(lab, table_of, range(seed, seed + PROGRAMS), failing=failing)
            assert not found, f"{len(found)} programs, such as\n{found[0]}"
        seed += PROGRAMS
        if time.monotonic() > deadline:
            break
