"""A run with `complete`: windows wait for the end of the input, so its result is that of all records in any order."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from anabranch import World
from anabranch.agents.tables.window_table import MOST_OPEN
from anabranch.replay.testing.world_run import WorldRun
from anabranch.topics.errors import Stop, Usage
from window_programs import KINDS

PROGRAM = """
import anabranch
from anabranch import Count, Cumulating, Hopping, Max, Sessions, Sum, Tumbling

KINDS = {{
    "tumbling": Tumbling("10s"),
    "hopping": Hopping("10s", "4s"),
    "cumulating": Cumulating("12s", "4s"),
    "sessions": Sessions("3s"),
    "days": Tumbling("1d", zone="Europe/Berlin"),
}}
app = anabranch.App("windows", topic_partitions=3)
sales = app.topic("sales", time="at", time_unit="s", grace=0, partitions=3)
flow = sales.key_by("user") if {by_key} else sales
table = flow.window(KINDS[{kind!r}]).aggregate("by-user", n=Count(), spent=Sum("price"), most=Max("price"))
table.final().to("finals")
"""


def run_of(
    folder: Path, records: list[dict[str, Any]], *, workers: int = 1, complete: bool = True, **more: Any
) -> WorldRun:
    file = folder / "sales.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    with World(str(folder / "program.py")) as world:
        return world.run({"sales": file}, key="user", workers=workers, complete=complete, **more)


@pytest.mark.parametrize("kind", [*KINDS, "days"])
@pytest.mark.parametrize("by_key", [True, False], ids=["by-key", "in-place"])
def test_any_order_of_records_gives_one_result_and_none_is_late(kind: str, by_key: bool, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.format(kind=kind, by_key=by_key))
    rng = random.Random(4)
    records = [{"user": f"u{rng.randrange(5)}", "at": 1_000 + n // 3, "price": rng.randrange(9)} for n in range(120)]
    in_order = run_of(tmp_path, records)
    rng.shuffle(records)
    shuffled = run_of(tmp_path, records, workers=2)
    packed = run_of(tmp_path, records, pack="lz4")
    assert in_order.tables == shuffled.tables == packed.tables
    told = [sorted(map(str, run.topics["finals"].values)) for run in (in_order, shuffled, packed)]
    assert told[0] == told[1] == told[2]
    assert len(told[0]) == len(in_order.tables["by-user"]) > 0
    if kind in ("tumbling", "sessions", "days"):
        assert sum(row["n"] for row in shuffled.tables["by-user"].values()) == len(records)


def test_without_it_records_out_of_order_are_late(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.format(kind="tumbling", by_key=True))
    records = [{"user": "ann", "at": at, "price": 1} for at in (1_000, 1_001, 1_030, 1_005)]
    assert sum(row["n"] for row in run_of(tmp_path, records, complete=False).tables["by-user"].values()) == 3
    assert sum(row["n"] for row in run_of(tmp_path, records).tables["by-user"].values()) == 4


@pytest.mark.parametrize("by_key", [True, False])
def test_more_open_windows_than_are_allowed_end_the_run_in_one_sentence(
    by_key: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = "import anabranch\nfrom anabranch.agents.engine.settings import EngineSettings"
    program = PROGRAM.replace("import anabranch", often, 1).replace(
        "topic_partitions=3",
        "topic_partitions=3, settings=EngineSettings(epoch_s=0, batch_records=100, backlog_records=100)",
    )
    (tmp_path / "program.py").write_text(program.format(kind="tumbling", by_key=by_key))
    records = [{"user": "ann", "at": 1_000 + 10 * n, "price": 1} for n in range(2_000)]
    monkeypatch.setenv(MOST_OPEN, "2000")
    assert len(run_of(tmp_path, records).tables["by-user"]) == 2_000
    monkeypatch.setenv(MOST_OPEN, "50")
    with pytest.raises(Stop, match="keeps windows open to the end of the inputs, and these are") as refused:
        run_of(tmp_path, records)
    assert "--time FIELD" in str(refused.value.hint)
    assert "50 are allowed" in str(refused.value)
    assert f"{MOST_OPEN}=100" in str(refused.value.hint)
    assert len(run_of(tmp_path, records, complete=False).tables["by-user"]) == 2_000, (
        "they close, so it does not matter"
    )
    monkeypatch.setenv(MOST_OPEN, "many")
    with pytest.raises(Usage, match=f"{MOST_OPEN}=many"):
        run_of(tmp_path, records)
