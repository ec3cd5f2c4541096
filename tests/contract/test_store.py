"""The contract of all stores of committed table state; add a store to `STORES`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from anabranch.agents.tables.rocksdb_store import RocksStore, StoreOwner
from anabranch.agents.tables.store import Changes, MemoryStore, Store
from anabranch.agents.tables.store_directory import StorePlace
from anabranch.replay.testing.store_faults import WatchedStore
from anabranch.topics.cluster import Cluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


class _Unhindered:
    def call(self, client: StorePlace, operation: str, act: Callable[[], None]) -> None:
        act()


STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _folder: MemoryStore(),
    "rocksdb": lambda folder: RocksStore(folder / "t-0", StoreOwner("app", "t", 0, "cluster", "changelog")),
    "watched": lambda folder: WatchedStore(
        MemoryStore(), StorePlace(Cluster("localhost:9092"), "t", 0, folder), _Unhindered()
    ),
}

pytestmark = pytest.mark.parametrize("make", STORES.values(), ids=STORES.keys())
Make = Callable[[Path], Store]

data = st.binary(max_size=3)
epochs = st.lists(st.dictionaries(data, st.none() | data, max_size=6), max_size=8)


def changes(pairs: dict[bytes, bytes | None]) -> Changes:
    return Changes(list(pairs), list(pairs.values()), deletes=None in pairs.values())


def test_a_new_store_is_empty_and_stands_at_the_beginning(make: Make, tmp_path: Path) -> None:
    store = make(tmp_path)
    assert store.position == 0
    assert len(store) == 0
    assert list(store.items()) == []
    assert store.get(b"a") is None


def test_what_was_applied_is_there_with_its_position(make: Make, tmp_path: Path) -> None:
    store = make(tmp_path)
    store.apply(changes({b"a": b"1", b"b": b"2"}), 7)
    assert store.approximate_count() == 2
    assert store.get(b"a") == b"1"
    assert sorted(store.items()) == [(b"a", b"1"), (b"b", b"2")]
    assert len(store) == 2
    assert store.position == 7


def test_later_changes_win(make: Make, tmp_path: Path) -> None:
    store = make(tmp_path)
    store.apply(changes({b"a": b"1", b"b": b"2"}), 2)
    store.apply(changes({b"a": b"3"}), 3)
    assert dict(store.items()) == {b"a": b"3", b"b": b"2"}
    assert store.position == 3


def test_none_deletes_also_what_was_never_there_and_what_comes_back_is_there(make: Make, tmp_path: Path) -> None:
    store = make(tmp_path)
    store.apply(changes({b"a": b"1", b"b": b"2"}), 2)
    store.apply(changes({b"a": None, b"never": None, b"c": b"3"}), 5)
    assert store.get(b"a") is None
    assert dict(store.items()) == {b"b": b"2", b"c": b"3"}
    assert len(store) == 2
    store.apply(changes({b"a": b"4"}), 6)
    assert store.get(b"a") == b"4"


def test_changes_that_are_empty_move_the_position(make: Make, tmp_path: Path) -> None:
    # Aborted records and transaction markers occupy offsets: a restore passes over them.
    store = make(tmp_path)
    store.apply(changes({b"a": b"1"}), 1)
    store.apply(changes({}), 17)
    assert store.position == 17
    assert dict(store.items()) == {b"a": b"1"}


def test_empty_keys_and_empty_values_are_keys_and_values(make: Make, tmp_path: Path) -> None:
    store = make(tmp_path)
    store.apply(changes({b"": b"", b"a": b""}), 2)
    assert store.get(b"") == b""
    assert store.get(b"a") == b""
    assert len(store) == 2


def test_the_changes_belong_to_the_caller(make: Make, tmp_path: Path) -> None:
    store = make(tmp_path)
    made = changes({b"a": b"1", b"b": None})
    store.apply(made, 2)
    assert (made.keys, made.values) == ([b"a", b"b"], [b"1", None])
    made.keys.clear()
    made.values.clear()
    assert dict(store.items()) == {b"a": b"1"}


def test_a_restore_neither_changes_what_is_there_nor_the_position(make: Make, tmp_path: Path) -> None:
    store = make(tmp_path)
    store.apply(changes({b"a": b"1"}), 4)
    store.begin_restore()
    store.apply(changes({b"b": b"2"}), 6)
    store.end_restore()
    assert dict(store.items()) == {b"a": b"1", b"b": b"2"}
    assert store.position == 6
    store.close()


def test_pairs_are_those_of_the_moment_they_were_asked_for_or_a_part_of_them_is_left_alone(
    make: Make, tmp_path: Path
) -> None:
    # A web view takes the first hundred and lets go.
    store = make(tmp_path)
    store.apply(changes({b"%d" % i: b"x" for i in range(1_000)}), 1_000)
    pairs = store.items()
    assert next(pairs)[1] == b"x"
    del pairs
    store.apply(changes({b"1": None}), 1_001)
    store.close()


def test_pages_give_every_pair_once_whatever_is_applied_meanwhile_to_others(make: Make, tmp_path: Path) -> None:
    store, cursor = make(tmp_path), None
    assert store.page(None, 3) == ([], None)
    store.apply(changes({b"%d" % i: b"x" for i in range(10)}), 10)
    seen: list[bytes] = []
    for step in range(4):
        pairs, cursor = store.page(cursor, 3)
        assert (cursor is None) == (step == 3)
        seen += [key for key, _ in pairs]
        store.apply(changes({key: None for key, _ in pairs}), 11 + step)
    assert sorted(seen) == [b"%d" % i for i in range(10)]
    assert len(store) == 0
    store.close()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(epochs)
def test_after_any_epochs_it_holds_what_a_dict_would(
    make: Make, tmp_path_factory: pytest.TempPathFactory, made
) -> None:
    store, twin = make(tmp_path_factory.mktemp("store")), dict[bytes, bytes]()
    for position, epoch in enumerate(made, 1):
        store.apply(changes(epoch), position)
        for key, value in epoch.items():
            twin.pop(key, None)
            if value is not None:
                twin[key] = value
        assert dict(store.items()) == twin
        assert len(store) == len(twin)
        assert store.position == position
        assert all(store.get(key) == twin.get(key) for key in epoch)
