"""Windowed tables, which agents write: in worlds they hold, close and refuse what a plain computation says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from anabranch import World
from anabranch.replay.testing.simulation import Simulation
from window_programs import inputs, key_of, sales
from windowed_table_programs import EXPIRES_S, KINDS, app_of, expected

every_kind = pytest.mark.parametrize("kind", KINDS)


def told(values: list[Any]) -> list[Any]:
    """Return the windows that `on_window_close` was called with."""
    return sorted(((v["user"], int(v["start"] * 1000), int(v["end"] * 1000)), v["prices"]) for v in values)


@every_kind
@pytest.mark.parametrize("workers", [1, 2])
def test_a_live_app_closes_what_is_complete_and_counts_late_records(kind: str, workers: int) -> None:
    records = sales()
    rows, late, closed = expected(kind, records, end=False)
    with World(lambda: app_of(kind), workers=workers) as world:
        for number, sale in enumerate(records):
            world.send("sales", sale, key=key_of(sale, by_key=False))
            if number % 50 == 0:
                world.settle()
        world.settle()
        assert told(world.topic("finals").values) == sorted((row, rows[row]) for row in closed)
        assert sorted(sale["number"] for sale in world.topic("sales.late").values) == late
        held, times = world.table("by-user"), [row[2] for row in closed]
        assert {row: rows[row] for row in held} == held
        assert {row for row in rows if row not in closed} <= set(held)
        assert len(held) < len(rows)
        assert min(row[2] for row in held) > min(times) + EXPIRES_S
        counts = world.table("closed")
        assert counts == {user: sum(row[0] == user for row in closed) for user in counts}
    assert late
    assert closed


PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from windowed_table_programs import app_of
app = app_of({kind!r})
"""


@every_kind
@pytest.mark.parametrize("pack", [None, "lz4"])
def test_the_end_of_a_bounded_run_s_input_closes_all_windows(kind: str, pack: Any, tmp_path: Path) -> None:
    records = sales(120)
    rows, late, closed = expected(kind, records, end=True)
    program, file = tmp_path / "program.py", tmp_path / "sales.jsonl"
    program.write_text(PROGRAM.format(folder=str(Path(__file__).parent), kind=kind))
    file.write_text("".join(json.dumps({**sale, "key": key_of(sale, by_key=False)}) + "\n" for sale in records))
    with World(str(program)) as world:
        run = world.run({"sales": file}, key="key", pack=pack, workers=1 if pack else 2)
    assert set(rows) == set(closed)
    assert run.tables["by-user"] == rows  # a run's result does not expire
    assert told(run.topics["finals"].values) == sorted(rows.items())
    good = [sale for sale in records if isinstance(sale["at"], int) and sale["price"] not in (13, "free")]
    assert kind == "hopping" or sum(map(len, rows.values())) + len(late) == len(good)


@pytest.mark.parametrize(("kind", "seeds"), [("tumbling", 8), ("hopping", 6)])
def test_worlds_with_faults_close_the_same_windows(kind: str, seeds: int) -> None:
    simulation = Simulation(
        lambda: app_of(kind),
        inputs=inputs(sales(), by_key=False),
        seeds=seeds,
        faults="kill,abort,lost-answer,rebalance",
    )
    report = simulation.same_as_without_faults()
    assert report.worlds == seeds
