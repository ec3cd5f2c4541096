"""Windowed tables, which agents write: in worlds they hold, close and refuse what a plain computation says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import window_programs
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


@every_kind
def test_behind_group_by_each_source_partition_says_what_is_late(kind: str) -> None:
    records = sales()
    rows, late, closed = window_programs.expected(kind, records, by_key=True, end=False)
    with World(lambda: app_of(kind, by_key=True), workers=2) as world:
        for number, sale in enumerate(records):
            world.send("sales", sale, key=key_of(sale, by_key=True))
            if number % 50 == 0:
                world.settle()
        world.settle()
        found = told(world.topic("finals").values)
        assert sorted(sale["number"] for sale in world.topic("sales.late").values) == late
    assert [(row, len(prices), sum(prices)) for row, prices in found] == sorted(
        (row, rows[row]["n"], rows[row]["spent"]) for row in closed
    )
    assert late


PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from windowed_table_programs import app_of
app = app_of({kind!r}, by_key={by_key})
"""


@every_kind
@pytest.mark.parametrize("pack", [None, "lz4"])
def test_the_end_of_a_bounded_run_s_input_closes_all_windows(kind: str, pack: Any, tmp_path: Path) -> None:
    records = sales(120)
    rows, late, closed = expected(kind, records, end=True)
    program, file = tmp_path / "program.py", tmp_path / "sales.jsonl"
    program.write_text(PROGRAM.format(folder=str(Path(__file__).parent), kind=kind, by_key=False))
    file.write_text("".join(json.dumps({**sale, "key": key_of(sale, by_key=False)}) + "\n" for sale in records))
    with World(str(program)) as world:
        run = world.run({"sales": file}, key="key", pack=pack, workers=1 if pack else 2)
    assert set(rows) == set(closed)
    assert run.tables["by-user"] == rows  # a run's result does not expire
    assert told(run.topics["finals"].values) == sorted(rows.items())
    good = [sale for sale in records if isinstance(sale["at"], int) and sale["price"] not in (13, "free")]
    assert kind == "hopping" or sum(map(len, rows.values())) + len(late) == len(good)


@pytest.mark.parametrize("pack", [None, "lz4"])
def test_a_run_has_the_same_windows_and_late_records_behind_group_by(pack: Any, tmp_path: Path) -> None:
    records = sales()
    rows, late, _ = window_programs.expected("tumbling", records, by_key=True, end=True)
    program, file = tmp_path / "program.py", tmp_path / "sales.jsonl"
    program.write_text(PROGRAM.format(folder=str(Path(__file__).parent), kind="tumbling", by_key=True))
    file.write_text("".join(json.dumps({**sale, "key": key_of(sale, by_key=True)}) + "\n" for sale in records))
    with World(str(program)) as world:
        run = world.run({"sales": file}, key="key", pack=pack, workers=1 if pack else 2)
    found = told(run.topics["finals"].values)
    assert [(row, len(prices), sum(prices)) for row, prices in found] == sorted(
        (row, values["n"], values["spent"]) for row, values in rows.items()
    )
    assert late


@pytest.mark.parametrize(
    ("kind", "by_key", "seeds"),
    [("tumbling", False, 5), ("hopping", False, 3), ("tumbling", True, 4), ("hopping", True, 3)],
)
def test_worlds_with_faults_close_the_same_windows(kind: str, by_key: bool, seeds: int) -> None:
    simulation = Simulation(
        lambda: app_of(kind, by_key=by_key),
        inputs=inputs(sales(), by_key=by_key),
        seeds=seeds,
        faults="kill,abort,lost-answer,rebalance",
    )
    report = simulation.same_as_without_faults()
    assert report.worlds == seeds
