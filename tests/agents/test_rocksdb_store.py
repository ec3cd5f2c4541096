"""The store on disk beyond the contract: what reopens after what, and what is not continued."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from anabranch.agents.tables.rocksdb_store import RocksStore, StoreOwner, StoreUnusable
from anabranch.agents.tables.store import Changes
from anabranch.topics.errors import Stop, Usage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

OWNER = StoreOwner("shop", "totals", 3, "cluster-id", "changelog-id")

data = st.binary(max_size=3)
steps = st.lists(st.dictionaries(data, st.none() | data, max_size=5) | st.just("reopen"), max_size=8)


def changes(pairs: dict[bytes, bytes | None]) -> Changes:
    return Changes(list(pairs), list(pairs.values()), deletes=None in pairs.values())


def content(folder: Path, owner: StoreOwner = OWNER) -> tuple[dict[bytes, bytes], int]:
    store = RocksStore(folder, owner)
    try:
        return dict(store.items()), store.position
    finally:
        store.close()


def filled(folder: Path, *, keys: int = 10) -> Path:
    store = RocksStore(folder, OWNER)
    store.apply(changes({b"k%d" % i: b"v%d" % i for i in range(keys)}), keys)
    store.close()
    return folder


# Reopening ------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_it_reopens_as_it_was_closed(tmp_path_factory: pytest.TempPathFactory, made: list) -> None:
    folder, twin, position = tmp_path_factory.mktemp("store") / "t-3", dict[bytes, bytes](), 0
    store = RocksStore(folder, OWNER)
    for step in made:
        if step == "reopen":
            store.close()
            store = RocksStore(folder, OWNER)
        else:
            position += 2
            store.apply(changes(step), position)
            twin = {k: v for k, v in (twin | step).items() if v is not None}
        assert (dict(store.items()), len(store), store.position) == (twin, len(twin), position)
    store.close()


# Epoch n sets key n and "last" to n, and deletes key n-3, so that any two epochs that are mixed show.
WRITER = """
    import sys
    from pathlib import Path
    from anabranch.agents.tables.rocksdb_store import StoreOwner, RocksStore
    from anabranch.agents.tables.store import Changes

    store = RocksStore(Path(sys.argv[1]), StoreOwner("shop", "totals", 3, "cluster-id", "changelog-id"))
    store.end_restore()
    ballast = b"x" * 2_000
    for n in range(store.position + 1, 1_000_000):
        wide = [b"wide%d" % i for i in range(200)]
        keys = [b"%d" % n, b"last", b"%d" % (n - 3), *wide]
        store.apply(Changes(keys, [b"%d" % n, b"%d" % n, None, *([b"%d " % n + ballast] * 200)], deletes=True), n)
        print(n, flush=True)
"""


@pytest.mark.parametrize("epochs", [1, 2, 60, 150], ids=str)
def test_a_process_that_is_killed_between_or_in_epochs_leaves_one_of_them_whole(tmp_path: Path, epochs: int) -> None:
    # 60 epochs are 24 MB: the first write buffer is written out beside the writing.
    folder = tmp_path / "t-3"
    for _ in range(2):  # the second one goes on from what the first has left
        command = [sys.executable, "-c", textwrap.dedent(WRITER), str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            said = [int(writer.stdout.readline()) for _ in range(epochs)][-1]
            os.kill(writer.pid, signal.SIGKILL)
            said = max([said, *map(int, writer.stdout.read().split())])
        found, position = content(folder)
        assert position in (said, said + 1), "what apply has returned from is there"
        expected = {b"%d" % n: b"%d" % n for n in range(max(1, position - 2), position + 1)}
        assert {k: v for k, v in found.items() if not k.startswith((b"last", b"wide"))} == expected
        assert found[b"last"] == b"%d" % position
        assert {v.split()[0] for k, v in found.items() if k.startswith(b"wide")} == {b"%d" % position}


def test_wherever_the_log_breaks_off_one_of_the_applied_states_comes_back(tmp_path: Path) -> None:
    #  log   | owner | epoch 1 | epoch 2 | …        cut at each of its bytes, as by a power failure
    open_one = RocksStore(tmp_path / "open", OWNER)
    twin: dict[bytes, bytes] = {}
    states = [(dict(twin), 0)]
    for n in range(1, 6):
        epoch: dict[bytes, bytes | None] = {b"last": b"%d" % n, b"%d" % n: b"x" * n, b"%d" % (n - 2): None}
        open_one.apply(changes(epoch), n)
        twin = {k: v for k, v in (twin | epoch).items() if v is not None}
        states.append((twin, n))
    shutil.copytree(tmp_path / "open", tmp_path / "killed")
    open_one.close()
    (log,) = (path for path in (tmp_path / "killed").glob("*.log") if path.stat().st_size)
    seen: list[int] = []
    for length in range(0, log.stat().st_size + 1, 3):
        folder = tmp_path / "cut"
        shutil.copytree(tmp_path / "killed", folder)
        os.truncate(folder / log.name, length)
        found = content(folder)
        assert found in states, f"cut to {length} bytes"
        seen.append(found[1])
        shutil.rmtree(folder)
    assert seen == sorted(seen)
    assert set(seen) == {0, 1, 2, 3, 4} | {seen[-1]}


def test_wherever_the_list_of_its_files_breaks_off_the_position_is_not_ahead_of_the_data(tmp_path: Path) -> None:
    closed = filled(tmp_path / "closed")
    (manifest,) = closed.glob("MANIFEST-*")
    reopened = 0
    for size in range(0, manifest.stat().st_size, 20):
        folder = tmp_path / str(size)
        shutil.copytree(closed, folder)
        os.truncate(folder / manifest.name, size)
        try:
            pairs, position = content(folder)
        except StoreUnusable:
            continue
        reopened += 1
        assert position == 0 or len(pairs) == 10, f"{manifest.name} ends after {size} bytes"
    assert reopened


def test_it_remembers_when_it_was_at_the_end_and_a_restore_does_not_count_as_that(tmp_path: Path) -> None:
    now = 100.0
    folder = tmp_path / "t-3"

    def reopened(store: RocksStore) -> RocksStore:
        store.close()
        return RocksStore(folder, OWNER, now_ms=lambda: int(now * 1000))

    store = RocksStore(folder, OWNER, now_ms=lambda: int(now * 1000))
    assert store.current_ms == 100_000
    now = 200.0
    store.apply(changes({b"a": b"1"}), 1)
    store = reopened(store)
    assert store.current_ms == 100_000, "it is still being restored"
    store.end_restore()
    now = 300.0
    store.apply(changes({b"a": b"2"}), 2)
    store = reopened(store)
    assert store.current_ms == 300_000
    now = 400.0
    store.begin_restore()
    store.apply(changes({b"a": b"3"}), 3)
    store = reopened(store)
    assert store.current_ms == 300_000
    store.begin_restore()
    now = 500.0
    store.end_restore()
    store = reopened(store)
    assert store.current_ms == 400_000, "the end that a restore goes to is that of its beginning"
    store.close()


def test_a_store_that_is_closed_says_so(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "t-3", OWNER)
    store.close()
    for use in (lambda: store.get(b"a"), lambda: store.apply(changes({b"a": b"1"}), 1), lambda: list(store.items())):
        with pytest.raises(Stop, match="is closed"):
            use()


# Not continued --------------------------------------------------------------------------------------------------------


def cut(folder: Path, pattern: str, *, keep: int = 0) -> None:
    hit = [path for path in folder.glob(pattern) if path.stat().st_size]
    assert hit, f"no {pattern}"
    for path in hit:
        os.truncate(path, keep)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a table file is gone": lambda folder: [path.unlink() for path in folder.glob("*.sst")],
    "a table file is cut": lambda folder: cut(folder, "*.sst", keep=50),
    "the manifest is gone": lambda folder: [path.unlink() for path in folder.glob("MANIFEST*")],
    "the manifest is cut": lambda folder: cut(folder, "MANIFEST*"),
    "CURRENT is nonsense": lambda folder: (folder / "CURRENT").write_text("nonsense"),
    "it is a file": lambda folder: (shutil.rmtree(folder), folder.write_text("nonsense")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_store_is_unfit(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    folder = filled(tmp_path / "t-3")
    damage(folder)
    with pytest.raises(StoreUnusable):
        RocksStore(folder, OWNER)


def test_damage_that_a_read_finds_stops_the_worker_and_makes_the_store_unfit(tmp_path: Path) -> None:
    folder = filled(tmp_path / "t-3", keys=5_000)
    tables = sorted(folder.glob("*.sst"), key=lambda path: path.stat().st_size)
    with tables[-1].open("r+b") as file:
        file.write(b"x" * 1_000)
    store = RocksStore(folder, OWNER)
    with pytest.raises(Stop, match="cannot read"):
        [store.get(b"k%d" % i) for i in range(5_000)]
    with pytest.raises(Stop, match="cannot read"):
        list(store.items())
    store.close()
    with pytest.raises(StoreUnusable, match="a read found damaged data"):
        RocksStore(folder, OWNER)
    (folder / "DAMAGED").unlink()
    RocksStore(folder, OWNER).close()  # not in use any more


def test_an_iteration_sees_the_store_as_it_was_when_it_began(tmp_path: Path) -> None:
    # A global table is read in one thread while another thread applies what other workers have committed.
    store = RocksStore(filled(tmp_path / "s"), OWNER)
    before = list(store.items())
    pairs = store.items()
    seen = [next(pairs)]
    store.apply(changes({b"k0": None, b"zzz": b"a later last key", before[-1][0]: None}), store.position + 1)
    assert seen + list(pairs) == before
    assert [key for key, _ in store.items()][-1] == b"zzz"
    store.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [("app", "other"), ("table", "other"), ("partition", 4), ("cluster", "other"), ("changelog", "other")],
)
def test_a_store_of_somebody_else_is_unfit_and_stays_as_it_is(tmp_path: Path, field: str, value: object) -> None:
    folder = filled(tmp_path / "t-3", keys=1)
    with pytest.raises(StoreUnusable, match=f"its {field} is .*, not {value!r}"):
        RocksStore(folder, replace(OWNER, **{field: value}))
    assert content(folder) == ({b"k0": b"v0"}, 1)


def test_a_store_of_another_format_is_unfit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled(tmp_path / "t-3")
    monkeypatch.setattr("anabranch.agents.tables.rocksdb_store.FORMAT", 2)
    with pytest.raises(StoreUnusable, match="its format is 1, not 2"):
        RocksStore(folder, OWNER)


def test_a_store_that_is_open_cannot_be_opened_again_and_is_not_taken_for_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "t-3"
    store = RocksStore(folder, OWNER)
    with pytest.raises(Stop, match="open in another process"):
        RocksStore(folder, OWNER)
    second = (
        "from pathlib import Path; from anabranch.agents.tables.rocksdb_store import StoreOwner, RocksStore; "
        f"RocksStore(Path({str(folder)!r}), {OWNER!r})"
    )
    ended = subprocess.run([sys.executable, "-c", second], capture_output=True, text=True)
    assert "open in another process" in ended.stderr
    store.close()


# Which store a program asks for ---------------------------------------------------------------------------------------


def test_the_apps_store_counts_where_a_table_has_none_of_its_own(lab) -> None:
    app = lab.app(lab.fresh("app"), store="rocksdb://")
    assert app.Table("a").store_scheme == "rocksdb"
    assert app.Table("b", store="memory://").store_scheme == "memory"
    assert lab.app(lab.fresh("app")).Table("a").store_scheme == "memory"


@pytest.mark.parametrize("url", ["aerospike://", "rocksdb:///elsewhere", "rocks", "rocksdb://?compression=none"])
def test_a_store_that_there_is_not_is_refused_where_the_table_is_declared(lab, url: str) -> None:
    app = lab.app(lab.fresh("app"))
    with pytest.raises(Usage, match="table totals: no store"):
        app.Table("totals", store=url)


def test_without_its_extra_rocksdb_is_refused_with_the_command_that_helps(lab, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Usage, match=r"pip install rocksdict"):
        lab.app(lab.fresh("app")).Table("totals", store="rocksdb://")
