"""Whichever process dies, and whenever: each transfer counts once, and the total of all balances does not change.

Each test runs one scenario; `main.py` runs hundreds of random ones. `make test` plays the short ones, `make faults`
those marked `rounds`, too. All end with the same audit (`audit.py`): balances and journals equal those of a plain
Python twin, and a reader of committed records sees each transfer once. The tests also assert how often workers were
started and why they ended.
"""

from __future__ import annotations

import json
import uuid

import audit as audit_module
import pytest
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.producer import TransactionalProducer
from audit import Expected, _compare, audit
from bank import OPENING
from commit_points import DISK_FULL
from scenario import (
    BrokerDown,
    Damage,
    Freeze,
    Join,
    Kill,
    KillReplay,
    Leave,
    NetworkFault,
    NodeDown,
    Scenario,
    Trap,
    random_scenario,
    transfer_records,
)

# A round that goes well takes seconds; one that does not is to tell why, before it is truncated.
pytestmark = pytest.mark.timeout(600)


def test_the_auditor_sees_what_is_lost_and_what_is_double():
    expected = Expected()
    for _, value in transfer_records(Scenario(1, transfers=50, bad=6)):
        expected.add(value)
    assert sum(expected.balances.values()) == 0
    assert len(expected.done) + sum(map(len, expected.dead_letters.values())) == 50
    assert _compare("done", expected.done, expected.done[::-1]) == []
    assert _compare("done", [1, 2, 3], [1, 3, 3]) == ["done: missing ['2'], duplicated ['3']"]


def test_the_auditor_finds_what_is_lost_doubled_or_wrong_in_kafka(runner, monkeypatch):
    scenario, name, expected = Scenario(1, transfers=60, bad=6), f"audited-{uuid.uuid4().hex[:8]}", Expected()
    cluster, values = runner.cluster(scenario), [value for _, value in transfer_records(scenario)]
    for value in values:
        expected.add(value)
    tables = {"balances": {a: OPENING + b for a, b in expected.balances.items()}, "journals": expected.journals}
    plain = ["transfers", "done", "transfers.dlq", "deposits.dlq", "balances-changelog", "journals-changelog"]
    Admin(cluster).create([TopicSpec(f"{name}-{topic}", 1) for topic in plain])
    producer = cluster.producer()

    def write(topic: str, *values: object, key: object = None) -> None:
        for value in values:
            data = value if isinstance(value, bytes) or value is None else json.dumps(value)
            producer.produce(f"{name}-{topic}", data, None if key is None else json.dumps(key))
        producer.flush()

    def found(values: list[bytes] = values) -> list[str]:
        return audit(cluster, name, expected, values)

    write("transfers", *values)
    write("done", *expected.done)
    for topic, dead_letters in expected.dead_letters.items():
        write(f"{topic}.dlq", *dead_letters)
    for table, rows in tables.items():
        for account, value in rows.items():
            write(f"{table}-changelog", value, key=account)
    assert found() == []

    account = min(expected.journals)
    balance, journal = tables["balances"][account], expected.journals[account]
    lost = expected.dead_letters["deposits"].pop()
    expected.done.append(61)
    write("balances-changelog", balance + 1, key=account)
    write("journals-changelog", [*journal, journal[0]], key=account)
    assert [wrong.partition("[")[0] for wrong in found()] == [
        "done: missing ",
        "deposits.dlq: missing none, duplicated ",
        f"journal of {account}: missing none, duplicated ",
        f"balance of {account}: {balance + 1}, not {balance}",
        "the total of all balances has changed by 1",
    ]
    expected.dead_letters["deposits"].append(lost)
    write("done", 61, 61)
    write("balances-changelog", None, key=account)
    write("journals-changelog", journal[1:], key=account)
    assert [wrong.partition("[")[0] for wrong in found()] == [
        "done: missing none, duplicated ",
        f"journal of {account}: missing ",
        f"balance of {account}: {OPENING}, not {balance}",
        f"the total of all balances has changed by {OPENING - balance}",
    ]
    assert found([*values, lost])[0].startswith("transfers: missing [")
    open_one = TransactionalProducer(cluster, name)
    open_one.open()
    open_one.begin()
    open_one.produce(f"{name}-done", b"62")
    open_one.flush()
    monkeypatch.setattr(audit_module, "END_S", 1.0)
    with pytest.raises(AssertionError, match="a transaction is left open"):
        found()
    open_one.abort()


def test_a_seed_decides_everything():
    assert random_scenario(7) == random_scenario(7)
    assert transfer_records(random_scenario(7)) == transfer_records(random_scenario(7))
    assert random_scenario(7) != random_scenario(8)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param("begun", "produced", marks=pytest.mark.rounds),
        ("with_offsets", "amid_commit"),
        ("committed", "half_stored"),
        pytest.param("stored", "with_offsets", marks=pytest.mark.rounds),
    ],
)
def test_a_worker_killed_at_a_point_of_its_commit_goes_on_where_kafka_says(play, first, then):
    #   worker:  ─commit─✗ ─commit──commit─✗ ────▶
    report = play(Scenario(1, (Trap(0, 0, first, 1), Trap(0, 0, then, 2)), workers=1, for_s=1.0))
    assert report.starts == 3
    assert not report.ends


def test_workers_killed_at_random_lose_nothing(play):
    #   0:  ───✗ ─────────▶          back at once: its partitions are still its own
    #   1:  ──────✗      ─▶          back after its session: the others have them meanwhile
    report = play(Scenario(2, (Kill(0.4, 0, 0.0), Kill(0.8, 1, 2.5)), for_s=2.0))
    assert report.starts == 4
    assert not report.ends


def test_a_worker_that_was_frozen_in_a_commit_beyond_its_session_does_no_harm(play):
    #   0:  ─commit───────────────────commit─▶
    #   1:  ─commit─▒▒▒ its session ends ▒▒▒─commit? fenced ─▶
    play(Scenario(3, (Trap(0, 1, "with_offsets", 2, "STOP", 2.5),), for_s=2.0))


@pytest.mark.rounds
def test_a_worker_that_was_frozen_anywhere_comes_back_by_itself(play):
    report = play(Scenario(4, (Freeze(0.5, 0, 2.5),), for_s=2.0))
    assert report.starts == 2, "no worker had to be started again"


@pytest.mark.rounds
def test_the_broker_may_be_restarted_under_its_workers(play):
    report = play(Scenario(5, (BrokerDown(0.5, 0.0),), for_s=1.5))
    assert report.starts == 2, "no worker had to be started again"


@pytest.mark.rounds
def test_workers_come_and_go_under_load(play):
    #   0:  ───────────────── SIGTERM
    #   1:  ────────────────────────▶
    #   2:       ───────────────────▶
    report = play(Scenario(6, (Join(0.0), Leave(1.5, 0)), for_s=2.0))
    assert report.starts == 3
    assert not report.ends


def test_records_that_take_longer_than_a_session_and_records_nobody_can_handle(play):
    report = play(Scenario(7, transfers=1_000, bad=4, slow=1, for_s=1.0))
    assert report.starts == 2
    assert not report.ends


def test_a_worker_killed_before_and_in_the_middle_of_a_write_to_its_stores_on_disk(play):
    #   Kafka has the epoch, the store has none of it, or a part: restoring brings the rest
    traps = (Trap(0, 0, "committed", 2), Trap(0, 0, "amid_store", 3), Trap(0, 0, "half_stored", 2))
    report = play(Scenario(9, traps, workers=1, for_s=1.0, store="rocksdb://"))
    assert report.starts == 4
    assert not report.ends


def test_a_store_whose_disk_is_full_stops_its_worker_and_harms_nothing(play):
    report = play(
        Scenario(10, (Trap(0, 0, DISK_FULL, 32),), workers=1, transfers=12_000, for_s=1.0, store="rocksdb://")
    )
    assert report.starts == 2
    assert "File too large" in report.ends[0].last_lines
    assert "check the disk" in report.ends[0].last_lines


@pytest.mark.rounds
def test_damaged_stores_are_rebuilt(play):
    damages = (Damage(0.5, 0, "flip"), Damage(2.5, 0, "cut"), Damage(4.5, 0, "lose"))
    play(Scenario(11, damages, workers=1, for_s=5.0, store="rocksdb://"))


@pytest.mark.rounds
def test_the_connection_to_the_broker_may_be_bad_for_longer_than_a_session(play):
    #   proxy:    ───✂  ───░░░ silent ░░░───▒▒▒ slow ▒▒▒───▶
    #   workers:  ── lost, restored ─ lost, restored ─ …
    bad = (NetworkFault(0.5, 2.5, "cut"), NetworkFault(5.0, 2.5, "blackhole"), NetworkFault(9.5, 2.5, "slow"))
    play(Scenario(12, bad, for_s=11.0, transfers=2_000))


@pytest.mark.rounds
def test_records_of_the_largest_size_and_larger_ones(play):
    report = play(Scenario(13, workers=1, transfers=200, large=9, for_s=0.5))
    assert report.starts == 1


@pytest.mark.rounds
def test_one_of_three_brokers_may_be_killed(play):
    #   1, 2:  ───its partitions get other leaders──▶
    #   3:     ─✗              ────────────────────▶
    report = play(Scenario(14, (NodeDown(0.5, 1, 3.0),), for_s=1.5, transfers=2_000))
    assert not report.ends


@pytest.mark.rounds
def test_all_at_once(play):
    play(random_scenario(8, ("kill", "trap", "bad", "join", "damage"), workers=2, transfers=2_000))


@pytest.mark.rounds
def test_a_bounded_run_over_packed_batches_while_it_and_its_workers_are_killed(play):
    #   run:      ──────────────✗ ─────────────▶ done
    #   workers:  ──✗ ──────────✗ ───✗ ────────▶
    report = play(Scenario(15, (Kill(0.3, 0, 0.0), KillReplay(1.2), Kill(3.0, 1, 0.0)), bad=3, feed="run"))
    assert report.starts == 2
    assert not report.ends


def test_windows_close_once_and_count_each_record_once_while_workers_are_killed(play):
    #   0:  ───✗ ────✗ ─────────▶
    #   1:  ──────✗      ─▶          back after its session
    faults = (Kill(0.4, 0, 0.0), Kill(0.8, 1, 2.5), Kill(1.4, 0, 0.0))
    play(Scenario(16, faults, for_s=2.0, bad=3, windows=True))


@pytest.mark.rounds
def test_windows_of_a_bounded_run_while_it_and_its_workers_are_killed(play):
    play(Scenario(17, (Kill(0.3, 0, 0.0), KillReplay(1.2), Kill(3.0, 1, 0.0)), bad=3, feed="run", windows=True))
