"""Previews: `--dry-run` and `--plot`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from anabranch.replay.cli.replay_plot import checked_plot, draw
from anabranch.replay.pipeline.dry_run import MAX_BINS, DryRun, TimeHistogram, perform_dry_run
from anabranch.replay.pipeline.pace import Pace
from anabranch.replay.pipeline.partitioning import record_partitions
from anabranch.replay.pipeline.pipeline import Pipeline
from anabranch.replay.pipeline.selection import Selection
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.format import Format
from anabranch.topics.errors import Usage
from anabranch.topics.partitioners import HashPartitioner
from hypothesis import given
from hypothesis import strategies as st

BEGIN_MS = 1_357_034_400_000


@pytest.fixture
def dry_run(tmp_path: Path) -> DryRun:
    for name, begin in (("a", 0), ("b", 1)):
        rows = [{"at": BEGIN_MS + n * 60_000, "user": f"u{n % 5}", "n": n} for n in range(begin, 100, 2)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    history = find_history([str(tmp_path / "*.jsonl")], Format(key="user", time="at"))
    return perform_dry_run(history, Pipeline(selection=Selection(where="n < 90"), rounds=2), HashPartitioner(4))


def test_a_dry_run_counts_what_would_be_sent(dry_run: DryRun) -> None:
    assert (dry_run.records, dry_run.estimated_records, dry_run.counters.filtered_out, dry_run.complete) == (
        90,
        90,
        10,
        True,
    )
    assert [json.loads(item[1] or b"")["n"] for item in dry_run.first] == [0, 1, 2, 3, 4]
    by_key = {
        f"u{n}": record_partitions([(f"u{n}".encode(), b"", 0, None, None)], HashPartitioner(4), 0)[0] for n in range(5)
    }
    assert dry_run.partitions == {p: 18 * list(by_key.values()).count(p) for p in set(by_key.values())}
    assert dry_run.over_time.range_ms == (BEGIN_MS, BEGIN_MS + 89 * 60_000)
    assert dry_run.estimated_s(Pace(speed=60), 2) == pytest.approx(2 * 89)
    assert dry_run.estimated_s(Pace(rate=10), 1) == pytest.approx(9)
    assert dry_run.estimated_s(Pace(), 0) is None


def test_a_part_of_a_large_history_tells_of_the_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{n:099d}\n" for n in range(50_000)))
    found = perform_dry_run(
        find_history([str(tmp_path / "a.txt")], Format()), Pipeline(), HashPartitioner(4), max_records=20_000
    )
    assert not found.complete
    assert found.records < 30_000
    assert found.estimated_records == pytest.approx(50_000, rel=0.3)


def test_a_picture_shows_every_record(dry_run: DryRun) -> None:
    root = ElementTree.fromstring(draw(dry_run, 'a "title" & <more>'))
    texts = ["".join(node.itertext()) for node in root]
    assert 'a "title" & <more>: 90 records' in texts
    assert "2013-01-01T10:00:00Z" in texts
    bars = [int(node[0].text.replace(",", "")) for node in root if len(node) and node[0].text]
    assert sum(bars) == 2 * 90, "over time, and over partitions"
    with pytest.raises(Usage, match="pictures are SVG"):
        checked_plot(Path("x.png"))


@given(st.lists(st.lists(st.integers(1, 4_000_000_000_000), max_size=20)))
def test_a_histogram_is_bounded_and_loses_nothing(batches: list[list[int]]) -> None:
    histogram = TimeHistogram()
    for batch in batches:
        histogram.add(batch)
    counts, times = dict(histogram.counts()), [time for batch in batches for time in batch]
    assert len(counts) <= MAX_BINS
    for at, count in counts.items():
        assert count == sum(at <= time < at + histogram.width_ms for time in times)
    assert sum(counts.values()) == len(times)


def test_a_dry_run_needs_no_broker_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("at,user\n2013-01-01,ann\n2013-01-03,bob\n2013-01-02,ann\n")
    asked = [sys.executable, "-m", "anabranch", "replay", "a.csv", "--to", "t", "--key", "user", "--time", "at"]
    said = subprocess.run(
        [*asked, "--dry-run", "--plot", "a.svg"], cwd=tmp_path, env={}, capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    for words in (
        "nothing is written",
        "new",
        "(would be created)",
        "2013-01-01T00:00:00Z … 2013-01-03",
        "1 record, by at most 24.0 h",
    ):
        assert words in said.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.svg"]
