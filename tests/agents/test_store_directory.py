"""Tables on disk with a real broker: what a restart reads, what a kill leaves, what is rebuilt."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from anabranch import App
from anabranch.agents.engine.rebalance import Rebalance
from anabranch.agents.runtime import runtime_of
from anabranch.agents.tables.rocksdb_store import RocksStore, StoreOwner, StoreUnusable
from anabranch.topics.admin import TopicSpec
from anabranch.topics.errors import Stop

PROGRAM = Path(__file__).with_name("on_disk_worker.py")


@pytest.fixture
def restored(monkeypatch) -> list[int]:
    """Number of records that each restore so far has read, for each that had anything to read."""
    counts: list[int] = []
    before: dict[int, int] = {}
    finish = Rebalance._finish

    async def counting(rebalance: Any) -> None:
        counts.append(rebalance.restored_total - before.get(id(rebalance), 0))
        before[id(rebalance)] = rebalance.restored_total
        await finish(rebalance)

    monkeypatch.setattr(Rebalance, "_finish", counting)
    return counts


def program(lab: Any, name: str, topic: str, *, worker: str = "a", **options: Any) -> App:
    """Totals by key, on disk; a value of None deletes the key."""
    app = lab.app(name, worker=worker, **{"store": "rocksdb://", **options})
    totals = app.Table("totals", default=int)

    @app.agent(app.topic(topic, key_type=str), name="total")
    async def total(stream):
        async for key, value in stream.items():
            if value == 0:
                del totals[key]
            else:
                totals[key] += value

    return app


def records(start: int, stop: int, keys: int = 40) -> list[tuple[str, int]]:
    return [(f"k{i % keys}", i) for i in range(start, stop)]


def expected(stop: int, keys: int = 40, start: int = 1) -> dict[str, int]:
    totals: dict[str, int] = {}
    for key, value in records(start, stop, keys):
        totals[key] = totals.get(key, 0) + value
    return totals


def shown(app: App) -> dict[str, int]:
    return dict(app.tables["totals"].items())


def folders(lab: Any, worker: str = "a") -> list[str]:
    return sorted(path.name for path in (lab.folder / worker).glob("v*/0/tables/*"))


def is_open(lab: Any, partition: int) -> bool:
    (folder,) = (lab.folder / "a").glob(f"v*/0/tables/totals-{partition}")
    try:
        RocksStore(folder, StoreOwner("nobody", "", 0, "", ""))
    except StoreUnusable:  # it could be opened, and is not ours
        return False
    except Stop:
        return True
    raise AssertionError("it has no owner")


async def test_a_restart_finds_its_tables_and_reads_nothing(lab, restored, table_of) -> None:
    topic, name = lab.topic(2), lab.fresh("app")
    app = program(lab, name, topic)
    lab.produce(topic, records(1, 500))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert folders(lab) == ["totals-0", "totals-1"]
    app = program(lab, name, topic)
    async with lab.running(app):
        assert restored == [0, 0]
        assert shown(app) == expected(500)
        lab.produce(topic, records(500, 1_000))
        await lab.caught_up(topic, app)
        assert shown(app) == expected(1_000)
    assert table_of(app, "totals") == expected(1_000)


async def test_a_partition_that_was_elsewhere_is_restored_from_where_it_was(lab, restored, table_of) -> None:
    #  a   ── 300 records ── stops                       ── starts: reads the records of b, not its own
    #  b                             ── 7 keys ── stops
    topic, name = lab.topic(), lab.fresh("app")
    a = program(lab, name, topic)
    lab.produce(topic, records(1, 301, 300))
    async with lab.running(a):
        await lab.caught_up(topic, a)
    b = program(lab, name, topic, worker="b")
    async with lab.running(b):
        assert restored == [0, 300]
        lab.produce(topic, [*records(301, 307, 300), ("k200", 0)])
        await lab.caught_up(topic, b)
    a = program(lab, name, topic)
    async with lab.running(a):
        assert restored == [0, 300, 7]
        totals = expected(307, 300)
        del totals["k200"]
        assert shown(a) == totals == table_of(a, "totals")


async def test_a_partition_that_moves_away_and_back_in_one_life_of_the_worker_is_right(lab, table_of) -> None:
    topic, name = lab.topic(4), lab.fresh("app")
    a, b = program(lab, name, topic), program(lab, name, topic, worker="b")
    async with lab.running(a):
        lab.produce(topic, records(1, 500))
        await lab.caught_up(topic, a)
        async with lab.running(b):
            await lab.until(lambda: len(runtime_of(a).status.owned) == len(runtime_of(b).status.owned) == 2)
            lab.produce(topic, records(500, 1_000))
            await lab.caught_up(topic, a, b)
            assert shown(a) | shown(b) == expected(1_000)
            gone = {0, 1, 2, 3} - {tp.partition for tp in runtime_of(a).status.owned}
            assert not [p for p in gone if is_open(lab, p)], "what has gone to another worker is closed"
        await lab.until(lambda: len(runtime_of(a).status.owned) == 4)
        lab.produce(topic, records(1_000, 1_500))
        await lab.caught_up(topic, a)
        assert shown(a) == expected(1_500)
    assert table_of(a, "totals") == expected(1_500)


async def test_two_workers_on_one_data_folder_have_stores_of_their_own(lab, table_of) -> None:
    topic, name = lab.topic(2), lab.fresh("app")
    a, b = program(lab, name, topic), program(lab, name, topic)
    async with lab.running(a, b):
        await lab.until(lambda: len(runtime_of(a).status.owned) == len(runtime_of(b).status.owned) == 1)
        lab.produce(topic, records(1, 500))
        await lab.caught_up(topic, a, b)
        assert not shown(a).keys() & shown(b).keys()
        assert shown(a) | shown(b) == expected(500)
        assert {path.parts[-3] for path in lab.folder.glob("a/v*/*/tables/*")} == {"0", "1"}, "a folder for each"
    assert table_of(a, "totals") == expected(500)


@pytest.mark.needs_real_kafka("the worker is a process of its own")
async def test_totals_are_right_after_a_worker_process_is_killed_again_and_again(lab, table_of) -> None:
    #  worker  ── epochs ── kill -9   ── epochs ── kill -9   …   starts, catches up
    #  load    ───────────────────────────────────────────── ends
    topic, name, sent, done = lab.topic(2), lab.fresh("app"), 1, asyncio.Event()
    changelog = f"{name}-totals-changelog"

    async def load() -> None:
        nonlocal sent
        while not done.is_set():
            lab.produce(topic, records(sent, sent + 500, 400))
            sent += 500
            await asyncio.sleep(0.01)

    def kept() -> int:
        return sum(lab.ends(changelog).values()) if lab.admin.partitions([changelog]) else 0

    loading = asyncio.create_task(load())
    for _ in range(4):
        before = kept()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(PROGRAM), lab.cluster.bootstrap_servers, name, topic, str(lab.folder / "a"))
        )
        await lab.until(
            lambda before=before, process=process: kept() > before + 1_500 or process.returncode is not None,
            "some epochs are committed",
        )
        assert process.returncode is None, "the worker has ended by itself"
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
    done.set()
    await loading
    app = program(lab, name, topic)
    async with lab.running(app):
        await lab.caught_up(topic, app)
        assert shown(app) == expected(sent, 400)
    assert table_of(app, "totals") == expected(sent, 400)
    assert folders(lab) == ["totals-0", "totals-1"], "a kill damages nothing"


# Set aside and rebuilt ------------------------------------------------------------------------------------------------


async def filled(lab: Any, stop: int = 200) -> tuple[str, str]:
    topic, name = lab.topic(), lab.fresh("app")
    app = program(lab, name, topic)
    lab.produce(topic, records(1, stop))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    return topic, name


def recreate(lab: Any, changelog: str) -> None:
    lab.admin.delete([changelog])
    lab.admin.create([TopicSpec(changelog, 1, config={"cleanup.policy": "compact"})])


async def test_a_store_of_a_changelog_that_was_made_anew_is_replaced_and_rebuilt(lab, caplog) -> None:
    topic, name = await filled(lab)
    recreate(lab, f"{name}-totals-changelog")
    lab.produce(f"{name}-totals-changelog", [('"k1"', 7)])
    app = program(lab, name, topic)
    async with lab.running(app):
        assert shown(app) == {"k1": 7}
        lab.produce(topic, [("k1", 1)])
        await lab.caught_up(topic, app)
        assert shown(app) == {"k1": 8}
    assert folders(lab) == ["totals-0", "totals-0.unusable"]
    warning = next(r.getMessage() for r in caplog.records if "cannot be used" in r.getMessage())
    assert "table totals partition 0" in warning
    assert "its changelog is" in warning
    assert "totals-0.unusable" in warning


async def test_a_store_beyond_the_changelogs_end_is_replaced_even_where_topics_have_no_ids(
    lab, caplog, monkeypatch
) -> None:
    monkeypatch.setattr("anabranch.topics.admin.Admin.topic_ids", lambda _, topics: dict.fromkeys(topics, "none"))
    topic, name = await filled(lab)
    recreate(lab, f"{name}-totals-changelog")
    app = program(lab, name, topic)
    async with lab.running(app):
        assert shown(app) == {}
    assert "beyond the changelog's end 0" in caplog.text


async def test_a_damaged_store_is_rebuilt_and_only_the_newest_one_is_kept_aside(lab, restored) -> None:
    topic, name = await filled(lab)
    for _ in range(2):
        for path in (lab.folder / "a").glob("v*/0/tables/totals-0/MANIFEST*"):
            path.write_bytes(b"")
        restored.clear()
        app = program(lab, name, topic)
        async with lab.running(app):
            assert restored == [40]
            assert shown(app) == expected(200)
        assert folders(lab) == ["totals-0", "totals-0.unusable"]


async def test_a_store_that_missed_more_than_its_changelog_remembers_of_deletions_is_rebuilt(
    lab, caplog, monkeypatch
) -> None:
    topic, name = await filled(lab)
    b = program(lab, name, topic, worker="b")
    lab.produce(topic, [("k1", 0), ("k2", 5)])
    async with lab.running(b):
        await lab.caught_up(topic, b)
        totals = shown(b)
    with monkeypatch.context() as patched:
        # What compaction does to the tombstone in a day, the setting does to our opinion of it at once.
        patched.setattr("anabranch.topics.admin.Admin.config", lambda *_: {"delete.retention.ms": "0"})
        a = program(lab, name, topic)
        async with lab.running(a):
            assert shown(a) == totals
    assert "the changelog may have lost deletions" in caplog.text


async def test_a_store_that_missed_nothing_is_never_too_old(lab, restored, monkeypatch) -> None:
    topic, name = await filled(lab)
    monkeypatch.setattr("anabranch.topics.admin.Admin.config", lambda *_: {"delete.retention.ms": "0"})
    app = program(lab, name, topic)
    async with lab.running(app):
        assert restored == [0, 0]
    assert folders(lab) == ["totals-0"]
