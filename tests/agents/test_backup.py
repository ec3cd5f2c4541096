"""Backups of tables and what becomes of them, on a real broker."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from anabranch import App
from anabranch.agents.runtime import runtime_of
from anabranch.agents.tables.restoration import Restoration
from anabranch.replay.table_backup.backup import (
    Backup,
    BackupPartition,
    back_up,
    read_manifest,
    read_pairs,
    write_pairs,
)
from anabranch.replay.table_backup.backup_storage import MANIFEST, open_backup_storage
from anabranch.replay.table_backup.restore import plan_restore, restore_tables
from anabranch.topics.errors import Stop, Usage

PARTITIONS = 2


@pytest.fixture
def started(monkeypatch) -> dict[tuple[str, int], int]:
    """Where restores began first: (changelog, partition) -> position of the store."""
    begun: dict[tuple[str, int], int] = {}
    restore = Restoration._restore

    def noting(restoration: Any, at: Any, *more: Any) -> None:
        begun.setdefault(at, restoration._states[at].store.position)
        restore(restoration, at, *more)

    monkeypatch.setattr(Restoration, "_restore", noting)
    return begun


def program(lab: Any, name: str, topic: str, *, ttl: int | None = 3_600, worker: str = "a") -> App:
    """Totals on disk, sets in memory, counts that expire; a number of 0 deletes the total."""
    app = lab.app(name, worker=worker)
    totals = app.Table("totals", default=int, store="rocksdb://")
    numbers = app.SetTable("numbers")
    recent = app.Table("recent", default=int, ttl=ttl)

    @app.agent(app.topic(topic, key_type=str), name="total")
    async def total(stream):
        async for key, number in stream.items():
            if number:
                totals[key] += number
            else:
                del totals[key]
            numbers[key].add(number)
            recent[key] += 1

    return app


def shown(app: App) -> dict[str, dict[Any, Any]]:
    return {name: dict(table.items()) for name, table in app.tables.items()}


async def fed(lab: Any, app: App, topic: str, start: int, stop: int) -> dict[str, dict[Any, Any]]:
    """The worker handles records and ends; what its tables hold then."""
    lab.produce(topic, [(f"k{i % 20}", i) for i in range(start, stop)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        return shown(app)


def saved(lab: Any, app: App, name: str = "backup", *tables: str) -> tuple[str, Backup]:
    address = str(lab.folder / name)
    return address, back_up(
        app, [app.tables[t] for t in tables] or runtime_of(app).tables, open_backup_storage(address)
    )


def bring_back(
    app: App, address: str, *names: str, start: Any = None, processes: int | None = None, **options: bool
) -> dict[str, str]:
    """Restores; returns what was done to which table."""
    source = open_backup_storage(address)
    kept = read_manifest(source)
    steps = plan_restore(app, kept, names, **{"overwrite": False, "other_app": False, **options})
    restore_tables(app, source, kept, steps, start=start, processes=processes)
    return {step.table.name: step.action for step in steps}


async def test_a_worker_that_lost_its_disk_reads_only_what_has_come_since(lab, started) -> None:
    #  worker  ── 1..200 ──┐          ── 200..210 ── disk lost          ── starts: reads the tail
    #  backup              └─ taken                          └─ restored
    topic, name = lab.topic(PARTITIONS), lab.fresh("app")
    await fed(lab, program(lab, name, topic), topic, 1, 200)
    address, made = saved(lab, program(lab, name, topic))
    assert made.consistent
    totals = await fed(lab, program(lab, name, topic), topic, 200, 210)
    shutil.rmtree(lab.folder / "a")

    app = program(lab, name, topic)
    assert bring_back(app, address) == {"totals": "seed", "numbers": "keep", "recent": "keep"}
    (folder,) = {path.parent for path in (lab.folder / "a").glob("v*/0/tables/totals-0")}
    assert sorted(path.name for path in folder.iterdir()) == ["totals-0", "totals-1"]
    positions = {at: part.position for table in made.tables[:1] for at, part in enumerate(table.partitions)}
    app = program(lab, name, topic)
    started.clear()
    async with lab.running(app):
        assert shown(app) == totals
    assert {at: started[f"{name}-totals-changelog", at] for at in positions} == positions
    assert bring_back(app, address, "totals") == {"totals": "seed"}, "again: its own stores are further, and stay"
    assert not list(folder.glob("*.unusable"))
    second = folder.parents[1] / "1" / "tables"
    assert not second.exists()
    for processes in (2, None):  # then as many as there have been
        bring_back(app, address, "totals", processes=processes)
        assert sorted(path.name for path in second.iterdir()) == ["totals-0", "totals-1"]
        shutil.rmtree(second)


async def test_tables_are_brought_to_an_app_that_has_none_and_its_group_goes_on_where_they_stood(lab) -> None:
    topic, name, other = lab.topic(PARTITIONS), lab.fresh("app"), lab.fresh("other")
    before = await fed(lab, program(lab, name, topic), topic, 1, 200)
    address, _ = saved(lab, program(lab, name, topic))
    app = program(lab, other, topic, worker="b")
    with pytest.raises(Usage, match=f"the backup is of {name}, this app is {other}"):
        bring_back(app, address)
    done = bring_back(app, address, other_app=True, start="backup")
    assert set(done.values()) == {"write"}
    async with lab.running(app):
        assert shown(app) == before
    after = await fed(lab, program(lab, name, topic), topic, 200, 260)
    app = program(lab, other, topic, worker="b")
    async with lab.running(app):
        await lab.caught_up(topic, app)
        assert shown(app) == after, "each record once"


async def test_without_a_start_a_worker_refuses_to_count_history_twice(lab) -> None:
    topic, name = lab.topic(PARTITIONS), lab.fresh("app")
    await fed(lab, program(lab, name, topic), topic, 1, 50)
    address, _ = saved(lab, program(lab, name, topic))
    app = program(lab, lab.fresh("other"), topic, worker="b")
    bring_back(app, address, other_app=True)
    assert "would count history twice" in str(await lab.stopped_by(app))


async def test_a_changelog_with_other_content_is_refused_and_with_overwrite_becomes_what_it_was(lab, drain) -> None:
    topic, name = lab.topic(PARTITIONS), lab.fresh("app")
    before = await fed(lab, program(lab, name, topic), topic, 1, 100)
    address, _ = saved(lab, program(lab, name, topic))
    lab.produce(topic, [("new", 7), ("k1", 0)])
    await fed(lab, program(lab, name, topic), topic, 100, 150)
    app = program(lab, name, topic)
    for changelog in (table.changelog_name for table in runtime_of(app).tables):
        lab.admin.delete([changelog])
    lab.produce(topic, [("newer", 1)])
    async with lab.running(app):  # it makes new changelogs, whose content is another history
        await lab.caught_up(topic, app)
    app = program(lab, name, topic)
    with pytest.raises(Usage, match=r"another changelog than that of the backup, and has 1 keys"):
        bring_back(app, address)
    done = bring_back(app, address, overwrite=True, start="backup")
    assert set(done.values()) == {"write"}
    assert {m.key() for m in drain(app.tables["totals"].changelog_name) if m.value() is None} == {b'"newer"'}
    app = program(lab, name, topic)
    async with lab.running(app):
        await lab.caught_up(topic, app)
        again = shown(app)
    expected = dict(before["totals"])
    for key, number in [("new", 7), ("k1", 0), *((f"k{i % 20}", i) for i in range(100, 150)), ("newer", 1)]:
        expected[key] = expected.get(key, 0) + number
        if not number:
            del expected[key]
    assert again["totals"] == expected, "the group went back to the backup as well"


async def test_what_is_reported_is_the_number_of_keys_also_of_tables_that_keep_their_time(lab) -> None:
    topic, name = lab.topic(4), lab.fresh("app")
    app = lab.app(name)
    recent, hours = app.Table("recent", default=int, ttl=3_600), app.Table("hours", default=int).tumbling(3_600.0)

    @app.agent(app.topic(topic, key_type=str), name="total")
    async def total(stream):
        async for key, _ in stream.items():
            recent[key] += 1
            hours[key] += 1

    lab.produce(topic, [("ann", 1), ("bob", 1), ("ann", 2)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    _, made = saved(lab, app)
    assert {table.table: sum(part.count for part in table.partitions) for table in made.tables} == {
        "recent": 2,
        "hours": 2,
    }


async def test_while_a_worker_runs_backups_can_be_taken_and_changelogs_not_be_written(lab) -> None:
    topic, name = lab.topic(PARTITIONS), lab.fresh("app")
    app = program(lab, name, topic)
    lab.produce(topic, [(f"k{i}", i) for i in range(1, 20)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        address, made = saved(lab, program(lab, name, topic))
        assert made.consistent, "it was idle"
        with pytest.raises(Stop, match=r"workers of .* are running"):
            bring_back(program(lab, name, topic), address, overwrite=True)
        with pytest.raises(Stop, match="a worker uses"):
            bring_back(program(lab, name, topic), address)
    with pytest.raises(Usage, match="no changelog is written"):
        bring_back(program(lab, name, topic), address, start="latest")


async def test_what_is_wrong_is_said_before_anything_is_done(lab, tmp_path) -> None:
    topic, name = lab.topic(PARTITIONS), lab.fresh("app")
    app = program(lab, name, topic)
    with pytest.raises(Usage, match="no changelog of"):
        saved(lab, app)
    await fed(lab, app, topic, 1, 50)
    app = program(lab, name, topic)
    address, made = saved(lab, app)
    _, again = saved(lab, app, "again")
    hashes = [[part.sha256 for table in each.tables for part in table.partitions] for each in (made, again)]
    assert hashes[0] == hashes[1], "the same content gives the same bytes"
    assert not list(tmp_path.glob(".*.part"))
    with pytest.raises(Usage, match="is not empty"):
        saved(lab, app)
    with pytest.raises(Usage, match="holds no backup"):
        bring_back(app, str(tmp_path / "nowhere"))
    with pytest.raises(Usage, match="the backup has no table nope"):
        bring_back(app, address, "nope")
    with pytest.raises(Usage, match="table recent had a time-to-live"):
        bring_back(program(lab, name, topic, ttl=None), address, "recent")
    other = program(lab, lab.fresh("other"), topic, worker="b")
    (tmp_path / "backup" / "totals-1.gz").write_bytes(b"damaged")
    with pytest.raises(Stop, match=r"totals-1\.gz has changed since it was written"):
        bring_back(other, address, other_app=True)
    assert not lab.admin.partitions([other.tables["totals"].changelog_name]), "nothing has been made"
    (tmp_path / "backup" / MANIFEST).write_bytes(b"{")
    with pytest.raises(Stop, match="is damaged"):
        bring_back(app, address)


async def test_a_backup_can_lie_where_fsspec_reaches(lab, fresh) -> None:
    topic, name = lab.topic(PARTITIONS), lab.fresh("app")
    before = await fed(lab, program(lab, name, topic), topic, 1, 50)
    app, address = program(lab, name, topic), f"memory://{fresh('shelf')}/monday"
    back_up(app, runtime_of(app).tables, open_backup_storage(address))
    with pytest.raises(Usage, match="is not empty"):
        back_up(app, runtime_of(app).tables, open_backup_storage(address))
    other = program(lab, lab.fresh("other"), topic, worker="b")
    bring_back(other, address, other_app=True, start="latest")
    async with lab.running(other):
        assert shown(other) == before
    with pytest.raises(Usage, match="holds no backup"):
        read_manifest(open_backup_storage("memory://nobody/knows"))
    with pytest.raises(Usage, match="nothing://"):
        open_backup_storage("nothing://here")


@pytest.mark.parametrize("address", ["ftp://ann:secret@127.0.0.1:1/monday", "data://monday", "zip://a::/nowhere.zip"])
def test_a_store_that_cannot_be_reached_or_written_to_is_named_in_one_sentence(address: str) -> None:
    with pytest.raises(Stop) as refused:
        storage = open_backup_storage(address)
        storage.begin()
        with storage.create("totals-0.gz") as file:
            file.write(b"content")
    assert address.partition(":")[0] in str(refused.value)
    assert "secret" not in str(refused.value)


async def test_on_a_new_cluster_the_own_topics_need_not_be_there_and_new_inputs_begin_where_asked(
    lab,
) -> None:
    #  cluster 1: in 0 1      app-…-repartition     backup
    #  cluster 2: in 0 1, new 0 1                   restore --start latest
    topic, new, name = lab.topic(PARTITIONS), lab.topic(PARTITIONS, "new"), lab.fresh("app")

    def grouped(*inputs: str) -> App:
        app = lab.app(name, topic_partitions=PARTITIONS)
        totals = app.Table("totals", default=int)

        @app.agent(app.topic(*inputs, value_type=int), name="total")
        async def total(stream):
            async for number in stream.group_by(lambda n: n % 5, name="rest"):
                totals[number % 5] += number

        return app

    async def counted(app: App, numbers: range, upto: int) -> None:
        lab.produce(topic, list(numbers))
        async with lab.running(app):
            await lab.until(lambda: sum(app.tables["totals"].values()) == upto, f"{upto}")

    await counted(grouped(topic), range(100), 4950)
    address, _ = saved(lab, grouped(topic))
    own = [other for other in lab.admin.partitions() if other.startswith(f"{name}-")]
    assert any(other.endswith("-repartition") for other in own)
    lab.admin.delete_group(name)
    lab.admin.delete(own)
    lab.produce(new, [1000])
    retry = f"{name}-total-retry"  # made after the backup
    lab.admin.create([lab.spec(retry, PARTITIONS)])
    lab.produce(retry, [2000])
    app = grouped(topic, new)
    bring_back(app, address, start="latest")
    for other in new, retry:
        assert lab.committed(name, other) == {p: (end, "") for p, end in lab.ends(other).items()}
    assert not lab.committed(name, f"{name}-totals-changelog")
    await counted(app, range(3), 4953)


def test_a_file_gives_back_any_bytes(tmp_path: Path) -> None:
    class Reader:
        def open(self, name: str) -> Any:
            return (tmp_path / name).open("rb")

    content = {b"": b"", b"\x00" * 3: b"x" * 100_000, "Zürich".encode(): b"\xff", b"a": b""}
    with (tmp_path / "t-0.gz").open("wb") as raw:
        size, sha256 = write_pairs(raw, content)
    part = BackupPartition(0, "t-0.gz", 7, len(content), size, sha256)
    assert dict(read_pairs(Reader(), part)) == content  # type: ignore[arg-type]
