"""The seam between the engine and its stores, and damage of stores on disk."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from anabranch.agents.tables.rocksdb_store import RocksStore, StoreOwner, StoreUnusable
from anabranch.agents.tables.store import Changes, MemoryStore
from anabranch.agents.tables.store_directory import StoreDirectory, StorePlace, wrapped
from anabranch.replay.testing.store_faults import WatchedStore, full_disk, spoil
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Stop

CLUSTER = Cluster("localhost:9092")
OWNER = StoreOwner("app", "t", 0, "cluster", "changelog")


class Table:
    name, store_scheme = "t", "memory"


class Refusing:
    """Notes the writes; refuses those after the first."""

    def __init__(self) -> None:
        self.writes: list[tuple[str, str, int]] = []

    def call(self, client: StorePlace, operation: str, act: Callable[[], None]) -> None:
        self.writes.append((operation, client.table, client.partition))
        if len(self.writes) > 1:
            raise full_disk(client)
        act()


def test_each_store_that_a_worker_opens_can_be_wrapped(tmp_path: Path) -> None:
    directory, refusing = StoreDirectory(CLUSTER, "app", tmp_path), Refusing()
    with wrapped(lambda store, place: WatchedStore(store, place, refusing)):
        store = directory.open(None, [(Table, 3)])["t", 3]  # pyright: ignore[reportArgumentType]
    store.apply(Changes([b"a"], [b"1"], deletes=False), 5)
    with pytest.raises(Stop, match="No space left"):
        store.apply(Changes([b"a"], [b"2"], deletes=False), 7)
    assert (store.get(b"a"), store.position) == (b"1", 5)
    assert refusing.writes == [("store", "t", 3)] * 2
    assert isinstance(directory.open(None, [(Table, 3)])["t", 3], MemoryStore)  # pyright: ignore[reportArgumentType]


FULL = """
import resource, sys
from pathlib import Path
from anabranch.agents.tables.rocksdb_store import RocksStore, StoreOwner
from anabranch.agents.tables.store import Changes
store = RocksStore(Path(sys.argv[1]), StoreOwner("app", "t", 0, "cluster", "changelog"))
resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, resource.RLIM_INFINITY))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    for i in range(1_000):
        store.apply(Changes([b"%d" % i], [b"x" * 10_000], deletes=False), i + 1)
except Exception as exc:
    print(type(exc).__name__, str(exc).replace("File too large", "No space left on device"), exc.hint)
"""


def test_a_full_disk_fails_as_a_real_one_does(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "t-0")], capture_output=True, text=True, check=True
    )
    error = full_disk(StorePlace(CLUSTER, "t", 0, tmp_path / "t-0"))
    beginning, _, end = str(error.args[0]).partition("No space")
    assert made.stdout.startswith(f"{type(error).__name__} {beginning}")
    assert f"No space{end}" in made.stdout
    assert str(error.hint) in made.stdout


@pytest.mark.parametrize("how", ["flip", "cut", "lose"])
def test_a_damaged_store_is_found_to_be_unusable_or_holds_a_state_that_it_once_had(tmp_path: Path, how: str) -> None:
    states = {position: {b"%d" % i: b"%d" % i for i in range(position)} for position in range(21)}
    found = 0
    for seed in range(6):
        folder = tmp_path / str(seed)
        store = RocksStore(folder / "t-0", OWNER)
        for i in range(20):
            store.apply(Changes([b"%d" % i], [b"%d" % i], deletes=False), i + 1)
        store.close()
        damaged = list(spoil(folder, how, random.Random(seed)))
        assert damaged
        try:
            store = RocksStore(folder / "t-0", OWNER)
            assert dict(store.items()) == states[store.position]
            store.close()
        except (StoreUnusable, Stop):
            found += 1
    assert found
