"""Comparing two histories in any order, and showing the first differences with their positions."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from anabranch.replay.archive import Archiver
from anabranch.replay.player import Player
from anabranch.replay.source_resolver import resolve_source
from anabranch.replay.sources.format import Format
from anabranch.replay.verify import comparison as verify_module
from anabranch.replay.verify.comparison import Compared, verify
from anabranch.replay.verify.comparison_side import find_side
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster

Fresh = Callable[..., str]

FORMAT = Format(key="user", time="at")


def write_orders(path: Path, count: int, *, change: int | None = None) -> Path:
    rows = [{"user": f"u{n % 17}", "at": 1_357_034_400_000 + n, "n": n} for n in range(count)]
    if change is not None:
        rows[change]["n"] = -1
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def compare(cluster: Cluster, a: str, b: str, format: Format = FORMAT, **more: int) -> Compared:
    return verify(find_side(a, format, cluster), find_side(b, format, cluster), **more)


@pytest.fixture(scope="module")
def orders(broker: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Path]:
    """The same 2,000 records as a file, in a topic and in an archive."""
    folder = tmp_path_factory.mktemp("orders")
    path, topic = write_orders(folder / "orders.jsonl", 2_000), f"orders-{uuid.uuid4().hex[:8]}"
    Player(broker, resolve_source([str(path)], FORMAT), topic, partitions=3).play()
    Archiver(broker, topic, folder / "archive").archive()
    return path, topic, folder / "archive"


def test_the_same_records_have_the_same_digest_wherever_they_are(
    broker: Cluster, orders: tuple[Path, str, Path], fresh: Fresh
) -> None:
    path, topic, archive = orders
    found = compare(broker, str(path), f"topic://{topic}")
    assert (found.same, found.a.records, found.b.records, found.differences) == (True, 2_000, 2_000, [])
    assert found.a.digest == found.b.digest
    assert found.fields == ("key", "value", "headers", "time")
    whole = compare(broker, str(archive), f"topic://{topic}")
    assert (whole.same, whole.fields[-1]) == (True, "partition")
    copy = fresh("copy")
    Player(broker, resolve_source([str(archive)], Format()), copy).play()
    assert compare(broker, f"topic://{topic}", f"topic://{copy}").same


@pytest.mark.parametrize("kept", [verify_module._KEPT, 1])
def test_a_changed_record_is_shown_from_both_sides_with_its_place(
    broker: Cluster, orders: tuple[Path, str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr(verify_module, "_KEPT", kept)
    _, topic, archive = orders
    path = write_orders(tmp_path / "changed.jsonl", 2_000, change=1_234)
    for other in (f"topic://{topic}", str(archive)):
        found = compare(broker, str(path), other)
        here, there = found.differences
        assert (found.same, here.position, here.key) == (False, f"{path}:1235", b"u10")
        assert json.loads(here.value or b"")["n"] == -1
        assert re.search(rf"{topic}\[\d\] offset [\d,]+$", there.position)
        assert json.loads(there.value or b"")["n"] == 1_234


def test_a_record_too_much_is_one_side_s(broker: Cluster, orders: tuple[Path, str, Path], fresh: Fresh) -> None:
    _, topic, archive = orders
    copy = fresh("copy")
    Player(broker, resolve_source([str(archive)], Format()), copy).play()
    producer = broker.producer()
    for _ in range(3):
        producer.produce(copy, b"more", b"k", 1, timestamp=1_357_034_400_000)
    assert producer.flush(60) == 0
    found = compare(broker, f"topic://{topic}", f"topic://{copy}", most=2)
    assert [(d.only_in, d.value) for d in found.differences] == [(f"topic://{copy}", b"more")] * 2
    assert (found.a.records, found.b.records) == (2_000, 2_003)


def test_tables_are_compared_by_their_last_values(broker: Cluster, fresh: Fresh) -> None:
    producer = broker.producer()
    apps = fresh("app"), fresh("app")
    for app, partitions in zip(apps, (1, 3), strict=True):
        topic = f"{app}-totals-changelog"
        Admin(broker).create([TopicSpec(topic, partitions, config={"cleanup.policy": "compact"})])
        for key, value in ((b"a", b"old"), (b"b", b"2"), (b"gone", b"3"), (b"a", b"1"), (b"gone", None)):
            producer.produce(topic, value, key)
        assert producer.flush(60) == 0
    first, second = (f"table://{app}/totals" for app in apps)
    assert compare(broker, first, second, Format()).same
    producer.produce(f"{apps[1]}-totals-changelog", b"4", b"b")
    assert producer.flush(60) == 0
    found = compare(broker, first, second, Format())
    assert [(d.only_in, d.key, d.value) for d in found.differences] == [(first, b"b", b"2"), (second, b"b", b"4")]


@pytest.mark.parametrize("bad", ["no json", '{"at": 1357034400000}', '{"user": "u", "at": null}'])
def test_a_side_with_lines_that_cannot_be_read_differs_and_they_are_counted(
    broker: Cluster, orders: tuple[Path, str, Path], tmp_path: Path, bad: str
) -> None:
    path, topic, _ = orders
    lines = path.read_text().splitlines()
    torn = tmp_path / "torn.jsonl"
    torn.write_text("\n".join([*lines[:5], bad, *lines[5:], bad]))
    found = compare(broker, str(torn), f"topic://{topic}")
    assert (found.same, found.equal, found.differences) == (False, True, [])
    assert (found.a.records, found.a.unreadable, found.b.unreadable) == (2_000, 2, 0)
    assert found.a.examples[0].startswith(f"{torn}:6: ")
    # Both sides alike are not the same: nobody knows what the lines were.
    assert not compare(broker, str(torn), str(torn)).same
