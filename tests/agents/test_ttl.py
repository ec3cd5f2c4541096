"""Keys that expire: the same records give the same table, wherever commits, failures and restarts fall.

The twin is a dict of value and time of the last write, and an stream time; it has never heard of commits.
"""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest
from anabranch.agents.tables.rocksdb_store import RocksStore, StoreOwner
from anabranch.agents.tables.store import Changes, MemoryStore, Store
from anabranch.agents.tables.stream_time import STREAM_TIME
from anabranch.agents.tables.table import Table
from anabranch.agents.tables.ttl_content import unexpired
from anabranch.agents.tables.ttl_table import TtlTable
from anabranch.topics.errors import BadRecord, Usage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table_partitions import close, open_at

pytestmark = pytest.mark.memory_suffices(
    "test_keys_expire_by_the_times_of_records_over_restarts",
)

TTL = 10
KEYS = ["a", "b", "c", 7]
OPS = ["read", "write", "change", "look", "delete", "pop", "ask", "all", "setdefault", "nothing"]


class Twin:
    """What a table with a time-to-live is, said as simply as can be."""

    def __init__(self, default: Any) -> None:
        self.default = default
        self.now = -1
        self.content: dict[Any, tuple[Any, int]] = {}

    def at(self, timestamp: int) -> dict[Any, Any]:
        self.now = max(self.now, timestamp)
        self.content = {
            key: (value, at) for key, (value, at) in self.content.items() if at + TTL > self.now and value != set()
        }
        return {key: value for key, (value, _) in self.content.items()}

    def put(self, key: Any, value: Any) -> None:
        self.content[key] = (value, self.now)


class Real:
    """The table, its stores and its changelog."""

    def __init__(self, default: Any, store: Any = MemoryStore, *, sets: bool = False) -> None:
        self.timestamp = -1
        self._default, self._store, self._sets = default, store, sets
        self.changelog: dict[bytes, bytes] = {}
        self.table = self.made()

    def made(self) -> TtlTable:
        table = TtlTable("t", default=self._default, sets=self._sets, ttl_ms=TTL, clock=lambda: self.timestamp)
        table.changelog_partitions = 1
        table.add_partition(0, table.new_state(self._store()))
        return table

    def commit(self) -> Changes | None:
        close(self.table)
        changes = self.table.uncommitted.encode_epoch(lambda _: 1)
        assert changes == self.table.uncommitted.encode_epoch(lambda _: 1), "asked again, the same"
        for key, value in zip(changes[0].keys, changes[0].values, strict=True) if changes else ():
            self.changelog.pop(key, None)
            if value is not None:
                self.changelog[key] = value
        self.table.uncommitted.freeze_epoch(changes)
        self.table.uncommitted.epoch_committed(dict.fromkeys(changes, 1))
        assert dict(self.table.states[0].store.items()) == self.changelog
        return changes.get(0)

    def restart(self) -> None:
        self.table = self.made()
        data = self.changelog
        self.table.states[0].store.apply(Changes(list(data), list(data.values()), deletes=False), 1)
        self.table.states[0].content.check()


steps = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.lists(
            st.tuples(
                st.sampled_from(OPS),
                st.sampled_from(KEYS),
            ),
            max_size=3,
        ),
        st.sampled_from(["", "", "commit", "restart", "savepoint", "undo", "redo"]),
    ),
    max_size=25,
)


def act(real: Real, twin: Twin, op: str, key: Any, number: int) -> None:
    """One thing that an agent does to a key."""
    table, kind = real.table, type(twin.default())
    if op == "nothing":
        return
    content = twin.at(real.timestamp)
    value: Any = number if kind is int else kind([number])
    match op:
        case "read":
            assert table[key] == content.get(key, twin.default())
        case "write":
            table[key] = copy.copy(value)
            twin.put(key, value)
        case "change":
            if kind is int:
                table[key] += number
                twin.put(key, content.get(key, 0) + number)
            elif kind is set:
                table[key] ^= {number % 3}
                twin.put(key, content.get(key, set()) ^ {number % 3})
            else:
                held = table[key]
                if len(held) > 1:
                    held.pop()
                    twin.put(key, content[key][:-1])
                else:
                    held.append(number)
                    twin.put(key, [*content.get(key, []), number])
        case "look":
            assert table.get(key) == content.get(key)
        case "delete":
            if key in content:
                del table[key], twin.content[key]
            else:
                with pytest.raises(KeyError):
                    del table[key]
        case "pop":
            assert table.pop(key, "none") == content.get(key, "none")
            twin.content.pop(key, None)
        case "ask":
            assert (key in table) == (key in content)
        case "setdefault":
            assert table.setdefault(key, copy.copy(value)) == content.get(key, value)
            if key not in content:
                twin.put(key, value)
        case _:
            assert table == content
            assert len(table) == len(content)
            assert sorted(map(repr, table)) == sorted(map(repr, content))


def play(real: Real, twin: Twin, made: list[Any]) -> None:
    # What stands in `redone` is done again when the epoch is dropped; what `kept` is the twin at that moment.
    kept, redone = copy.deepcopy(twin), list[Any]()
    open_at(real.table, "in", 0)
    for number, (timestamp, ops, then) in enumerate(made):
        real.timestamp = timestamp
        before = copy.deepcopy(twin)
        if then == "undo":
            real.table.uncommitted.savepoint()
        for op, key in ops:
            act(real, twin, op, key, number)
        redone.append((timestamp, ops, number))
        match then:
            case "undo":  # the record fails, record by record
                real.table.uncommitted.discard_writes()
                twin.__dict__.update(before.__dict__)
                redone.pop()
            case "savepoint":
                real.table.uncommitted.savepoint()
            case "redo":  # an aborted commit
                close(real.table)
                real.table.uncommitted.encode_epoch(lambda _: 1)
                real.table.uncommitted.drop_epoch()
                open_at(real.table, "in", 0)
                twin.__dict__.update(copy.deepcopy(kept).__dict__)
                for again, its_ops, its_number in redone:
                    real.timestamp = again
                    for op, key in its_ops:
                        act(real, twin, op, key, its_number)
            case "commit" | "restart":
                real.commit()
                if then == "restart":
                    real.restart()
                shown = {} if twin.now < 0 else twin.at(-1)
                assert real.table == shown, "outside, at the committed stream time"
                plain = unexpired(real.changelog, TTL)
                table = real.table
                assert {table.key_codec.decode(k): table.value_codec.decode(v) for k, v in plain.items()} == shown
                open_at(real.table, "in", 0)
                kept, redone = copy.deepcopy(twin), []


@pytest.mark.parametrize("default", [int, list, set])
def test_a_table_with_a_time_to_live_is_its_twin_wherever_commits_fall(default, monkeypatch) -> None:
    monkeypatch.setattr("anabranch.agents.tables.expiry_sweep.SWEEP_PAIRS", 2)

    @settings(deadline=None, max_examples=150)
    @given(steps)
    def run(made: list[Any]) -> None:
        play(Real(default, sets=default is set), Twin(default), made)

    run()


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_on_disk_likewise(tmp_path_factory: pytest.TempPathFactory, made: list[Any]) -> None:
    opened: list[RocksStore] = []

    def store() -> Store:
        opened.append(RocksStore(tmp_path_factory.mktemp("t"), StoreOwner("app", "t", 0, "", "")))
        return opened[-1]

    play(Real(list, store), Twin(list), made)
    for each in opened:
        each.close()


def test_what_has_expired_is_removed_in_bounded_steps_and_what_was_written_again_is_not(monkeypatch) -> None:
    monkeypatch.setattr("anabranch.agents.tables.expiry_sweep.SWEEP_PAIRS", 100)
    real = Real(int)
    for timestamp, names in ((0, range(1_000)), (5, range(500, 600))):
        real.timestamp = timestamp
        open_at(real.table, "in", 0)
        for name in names:
            real.table[name] += 1
        real.commit()
    real.timestamp = 10
    removed: list[int] = []
    while len(real.changelog) > 101:
        open_at(real.table, "in", 0)
        assert 3 not in real.table
        assert real.table[550] == 2
        if (changes := real.commit()) is not None:
            removed.append(changes.values.count(None))
    assert max(removed) <= 101, "a page, and the key that was asked for"
    assert len(removed) >= 9
    assert real.table == dict.fromkeys(range(500, 600), 2)


def test_a_record_that_only_reads_moves_the_event_time_for_good() -> None:
    real = Real(int)
    real.timestamp = 0
    open_at(real.table, "in", 0)
    real.table["a"] = 1
    real.commit()
    open_at(real.table, "in", 0)
    real.timestamp = 50
    assert "b" not in real.table
    real.commit()
    real.restart()
    real.timestamp = 1
    open_at(real.table, "in", 0)
    assert "a" not in real.table, "a late record works at the partition's stream time"


def test_a_timestamp_in_microseconds_is_refused_and_lets_no_key_expire() -> None:
    real = Real(int)
    real.timestamp = 1_796_064_147_323
    open_at(real.table, "in", 0)
    real.table["a"] = 1
    real.timestamp *= 1_000
    for touch in (lambda: real.table.get("b"), lambda: list(real.table.items()), lambda: real.table.update(b=1)):
        with pytest.raises(BadRecord, match="is it in milliseconds"):
            touch()
    real.commit()
    real.timestamp = 1_796_064_147_323
    open_at(real.table, "in", 0)
    assert dict(real.table) == {"a": 1}


def test_a_store_that_is_written_past_the_table_is_seen_as_it_is() -> None:
    #  real      ── a ── commit              ── shown
    #  another             └─ b, at 50 ──┘ comes in by the changelog
    real, another = Real(int), Real(int)
    real.timestamp = 1
    open_at(real.table, "in", 0)
    real.table["a"] = 1
    real.commit()
    assert real.table == {"a": 1}
    another.changelog = dict(real.changelog)
    another.restart()
    another.timestamp = 50
    open_at(another.table, "in", 0)
    another.table["b"] = 1
    another.commit()
    data = another.changelog
    real.table.states[0].store.apply(Changes(list(data), list(data.values()), deletes=False), 9)
    assert real.table == {"b": 1}
    real.timestamp = 2
    open_at(real.table, "in", 0)
    assert "a" not in real.table
    assert real.table["b"] == 1


def test_nothing_is_written_where_nothing_was_touched() -> None:
    real = Real(int)
    real.timestamp = 5
    open_at(real.table, "in", 0)
    assert real.commit() is None
    open_at(real.table, "in", 0)
    real.table["a"] = 1
    assert (changes := real.commit()) is not None
    assert changes.keys == [b'"a"', STREAM_TIME]
    open_at(real.table, "in", 0)
    assert real.table["a"] == 1
    assert real.commit() is None


def test_a_table_that_gets_or_loses_its_time_to_live_says_so() -> None:
    plain = Table("t")
    plain.add_partition(0).store.apply(Changes([b'"a"'], [b"1"], deletes=False), 1)
    real = Real(int)
    real.timestamp = 1
    open_at(real.table, "in", 0)
    real.table["a"] = 1
    real.commit()
    old, new = plain.states[0].store, real.table.states[0].store
    with pytest.raises(Usage, match="table t: has a time-to-live now"):
        TtlTable("t", ttl_ms=1, clock=int).new_state(old).content.check()
    with pytest.raises(Usage, match="no longer has a time-to-live"):
        Table("t").new_state(new).content.check()


def test_the_key_that_keeps_the_event_time_is_none_of_the_tables() -> None:
    table = TtlTable("t", ttl_ms=1, clock=int, key_type=bytes, value_type=bytes)
    table.changelog_partitions = 1
    table.add_partition(0)
    open_at(table, "in", 0)
    with pytest.raises(BadRecord):
        table[STREAM_TIME] = b""


# With a real broker ---------------------------------------------------------------------------------------------------


def program(lab: Any, name: str, topic: str, **options: Any) -> Any:
    """Who came back within ten seconds: records are `user`, "bad" fails."""
    app = lab.app(name, **options)
    visits = app.Table("visits", default=int, ttl=timedelta(seconds=10), help="of late")

    @app.agent(app.topic(topic, value_type=str), name="visits")
    async def count(stream):
        async for user in stream:
            visits[user] += 1
            if user == "bad":
                raise ValueError(user)

    return app


@pytest.mark.parametrize("store", ["memory://", "rocksdb://"])
async def test_keys_expire_by_the_times_of_records_over_restarts(lab, record, drain, store) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    app = program(lab, name, topic, store=store)
    lab.produce(topic, [record(user, timestamp_ms=1_000 * s) for user, s in [("ann", 1), ("bob", 5), ("ann", 6)]])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        assert app.tables["visits"] == {"ann": 2, "bob": 1}
        # The failing record is from far ahead: what it did to the stream time is undone with it.
        lab.produce(topic, [record("bad", timestamp_ms=900_000), record("bob", timestamp_ms=15_000)])
        await lab.caught_up(topic, app)
        assert app.tables["visits"] == {"ann": 2, "bob": 1}, "bob's were too old"
    app = program(lab, name, topic, store=store)
    async with lab.running(app):
        assert app.tables["visits"] == {"ann": 2, "bob": 1}
        lab.produce(topic, [record("ann", timestamp_ms=2_000), record("eve", timestamp_ms=17_000)])
        await lab.caught_up(topic, app)
        assert app.tables["visits"] == {"ann": 3, "bob": 1, "eve": 1}, "a late record works at the stream time"
        lab.produce(topic, [record("eve", timestamp_ms=27_000)])
        await lab.caught_up(topic, app)
        assert app.tables["visits"] == {"eve": 1}
        assert "ann" not in app.tables["visits"]
    gone = {m.key() for m in drain(f"{name}-visits-changelog") if m.value() is None}
    assert gone >= {b'"ann"', b'"bob"'}, "the changelog forgets them too"


async def test_a_result_is_read_from_the_changelog_without_what_has_expired(lab, record) -> None:
    from anabranch.replay.table_reader import TableReader

    topic, app = lab.topic(2), None
    app = program(lab, lab.fresh("app"), topic)
    lab.produce(topic, [record(u, u, 1_000 * s, partition=p) for u, s, p in [("a", 1, 0), ("b", 50, 0), ("c", 1, 1)]])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        assert dict(TableReader(lab.cluster, app.tables["visits"]).read().items()) == {"b": 1, "c": 1}


async def test_an_agent_that_takes_batches_cannot_use_such_a_table(lab) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    seen = app.Table("seen", ttl=60)

    @app.agent(app.topic(topic), name="batched")
    async def batched(stream):
        async for batch in stream.batches():
            seen[batch.values[0]] = 1

    lab.produce(topic, [1])
    error = await lab.stopped_by(app)
    assert isinstance(error, Usage)
    assert "agent batched takes batches and uses a table with a time-to-live" in str(error)


@pytest.mark.parametrize("ttl", [0, -1, timedelta()])
def test_a_time_to_live_of_nothing_is_refused(lab, ttl) -> None:
    with pytest.raises(Usage, match="ttl="):
        lab.app(lab.fresh("app")).Table("seen", ttl=ttl)
