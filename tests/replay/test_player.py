"""A replay sends each record once, in order, with its time, whichever process dies in between."""

from __future__ import annotations

import gzip
import json
import random
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from anabranch.replay import player
from anabranch.replay.player import Player
from anabranch.replay.replay_report import Progress
from anabranch.replay.run_state import RunRegistry
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.source_record import BadLine
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Rebuild, Stop, Usage
from anabranch.topics.partitioners import HashPartitioner
from anabranch.topics.producer import Aborted, TransactionalProducer
from confluent_kafka import Message
from killed_child import kill_repeatedly

Drain = Callable[..., list[Message]]
Fresh = Callable[..., str]

KEYED = Format(key_before=",")

# Plays argv[2:] into a topic in small transactions and says after each how far it is.
CHILD = """
import sys
from anabranch.replay import Format, Player, find_history
from anabranch.topics.cluster import Cluster
servers, topic, path = sys.argv[1:]
player = Player(Cluster(servers), find_history([path], Format(key_before=",")), topic,
                transaction_records=200, batch_lines=50)
player.play(lambda progress: print(progress.sent, flush=True))
"""


def write_lines(folder: Path, count: int, name: str = "data.txt") -> Path:
    path = folder / name
    path.write_text("".join(f"k{n % 17},{n}\n" for n in range(count)))
    return path


def by_partition(messages: list[Message]) -> dict[int, list[Message]]:
    found: dict[int, list[Message]] = {}
    for message in messages:
        found.setdefault(message.partition() or 0, []).append(message)
    return found


def check_once_and_in_order(messages: list[Message], count: int) -> None:
    numbers: dict[bytes, list[int]] = {}
    for message in messages:
        key, number = (message.value() or b"").split(b",")
        assert message.key() == key
        numbers.setdefault(key, []).append(int(number))
    assert sorted(n for found in numbers.values() for n in found) == list(range(count))
    assert all(found == sorted(found) for found in numbers.values())


def test_keys_values_times_partitions_and_order_arrive(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path
) -> None:
    rows = [{"at": f"2013-01-{n % 28 + 1:02d}T10:00:00Z", "user": f"u{n % 7}", "n": n} for n in range(500)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    topic = fresh("jsonl")
    history = find_history([str(path)], Format(key="user", time="at"))
    report = Player(broker, history, topic, partitions=3, transaction_records=100, batch_lines=50).play()

    found = by_partition(drain(topic))
    partitioner = HashPartitioner(3)
    for partition, messages in found.items():
        expected = [row for row in rows if partitioner.partition(str(row["user"]).encode()) == partition]
        assert [json.loads(m.value() or b"") for m in messages] == expected
        assert [m.key() for m in messages] == [str(row["user"]).encode() for row in expected]
        assert [m.timestamp()[1] for m in messages] == [
            1357034400000 + int(row["n"]) % 28 * 86_400_000 for row in expected
        ]
    assert report.sent == report.sent_now == 500
    assert report.counts == {partition: len(messages) for partition, messages in sorted(found.items())}
    assert report.end_offsets == {partition: (messages[-1].offset() or 0) + 1 for partition, messages in found.items()}
    assert report.done
    assert report.resumed_from is None


def test_end_marks_of_earlier_transactions_and_earlier_starts_stay(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path
) -> None:
    #  transaction   1        2        3
    #  partition     of a     of b     of b     ── each must be drained to its own last record
    partitioner = HashPartitioner(4)
    keys = sorted((f"k{n}" for n in range(50)), key=lambda key: partitioner.partition(key.encode()))
    first, last = keys[0], keys[-1]
    path, topic = tmp_path / "data.txt", fresh()
    path.write_text("".join(f"{key},{n}\n" for n, key in enumerate([first] * 50 + [last] * 100)))
    history = find_history([str(path)], KEYED)
    player = Player(broker, history, topic, transaction_records=50, batch_lines=50)
    assert not player.play(lambda progress: player.stop()).done
    report = Player(broker, history, topic, transaction_records=50, batch_lines=50).play()
    found = by_partition(drain(topic))
    assert {p: len(messages) for p, messages in found.items()} == {
        partitioner.partition(first.encode()): 50,
        partitioner.partition(last.encode()): 100,
    }
    assert report.end_offsets == {p: (messages[-1].offset() or 0) + 1 for p, messages in found.items()}


def test_a_topic_we_make_keeps_2013(broker: Cluster, fresh: Fresh, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("t,n\n2013-01-01,1\n")
    topic = fresh("old")
    Player(broker, find_history([str(path)], Format(time="t")), topic).play()
    config = Admin(broker).config(topic)
    assert (config["retention.ms"], config["message.timestamp.type"]) == ("-1", "CreateTime")
    assert Admin(broker).partitions([topic]) == {topic: 4}


def test_records_without_keys_are_spread_evenly(broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path) -> None:
    topic = fresh("spread")
    Player(broker, find_history([str(write_lines(tmp_path, 100))], Format()), topic).play()
    assert {p: len(messages) for p, messages in by_partition(drain(topic)).items()} == dict.fromkeys(range(4), 25)


def test_a_finished_run_writes_nothing_and_says_so(broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path) -> None:
    topic = fresh("again")
    history = find_history([str(write_lines(tmp_path, 50))], KEYED)
    first = Player(broker, history, topic).play()
    second = Player(broker, history, topic).play()
    assert (first.already_done, second.already_done) == (False, True)
    assert (second.sent, second.sent_now, second.end_offsets) == (50, 0, first.end_offsets)
    check_once_and_in_order(drain(topic), 50)


def test_another_run_id_sends_it_again(broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path) -> None:
    topic = fresh("twice")
    history = find_history([str(write_lines(tmp_path, 10))], KEYED)
    for name in ("first", "second"):
        Player(broker, history, topic, run_id=fresh(name)).play()
    assert len(drain(topic)) == 20


def test_an_empty_file_is_a_finished_run(broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path) -> None:
    topic = fresh("empty")
    history = find_history([str(write_lines(tmp_path, 0))], Format())
    assert Player(broker, history, topic).play().done
    assert Player(broker, history, topic).play().already_done
    assert drain(topic) == []


def test_a_changed_source_is_refused_and_named(broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path) -> None:
    topic, path = fresh("changed"), write_lines(tmp_path, 50)
    Player(broker, find_history([str(path)], KEYED), topic).play()
    path.write_text("k,51\n")
    with pytest.raises(Stop, match=r"changed since it began: .*data\.txt"):
        Player(broker, find_history([str(path)], KEYED), topic).play()
    assert len(drain(topic)) == 50


def test_a_run_id_stands_for_one_thing(broker: Cluster, fresh: Fresh, tmp_path: Path) -> None:
    run, history = fresh("run"), find_history([str(write_lines(tmp_path, 5))], KEYED)
    Player(broker, history, fresh("a"), run_id=run).play()
    with pytest.raises(Usage, match=run):
        Player(broker, history, fresh("b"), run_id=run).play()


def test_a_topic_that_was_made_anew_is_noticed(broker: Cluster, fresh: Fresh, tmp_path: Path) -> None:
    topic, history = fresh("gone"), find_history([str(write_lines(tmp_path, 5))], KEYED)
    Player(broker, history, topic).play()
    Admin(broker).delete([topic])
    with pytest.raises(Stop, match="no longer holds"):
        Player(broker, history, topic).play()


@pytest.mark.needs_real_kafka("processes of their own write to it")
def test_killed_again_and_again_every_line_is_there_once(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path
) -> None:
    count, topic = 20_000, fresh("killed")
    path = write_lines(tmp_path, count)
    kill_repeatedly(CHILD, broker, topic, path, after=(1, 9, 25))
    report = Player(broker, find_history([str(path)], KEYED), topic).play()
    assert report.resumed_from
    assert report.sent == count
    check_once_and_in_order(drain(topic), count)


def test_stopped_it_goes_on_where_it_was(broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path) -> None:
    topic, history = fresh("stopped"), find_history([str(write_lines(tmp_path, 1_000))], KEYED)
    player = Player(broker, history, topic, transaction_records=100, batch_lines=50)
    first = player.play(lambda _: player.stop())
    assert (first.done, first.sent) == (False, 100)
    second = Player(broker, history, topic).play()
    assert (second.resumed_from, second.sent_now, second.sent, second.done) == (100, 900, 1_000, True)
    check_once_and_in_order(drain(topic), 1_000)


def test_a_forgotten_twin_is_fenced(broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path) -> None:
    topic, history = fresh("twin"), find_history([str(write_lines(tmp_path, 1_000))], KEYED)
    forgotten = Player(broker, history, topic, transaction_records=100, batch_lines=50)
    later = Player(broker, history, topic)
    with pytest.raises(Rebuild, match="has taken over run"):
        forgotten.play(lambda _: later.play())
    check_once_and_in_order(drain(topic), 1_000)


@pytest.mark.usefixtures("unlucky")
def test_an_aborted_transaction_is_sent_again_by_a_new_client(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, history = fresh("aborted"), find_history([str(write_lines(tmp_path, 300))], KEYED)
    renew, renewed = TransactionalProducer.renew, list[bool]()

    def renewing(self: TransactionalProducer) -> None:
        before = self.produce_fast
        renew(self)
        renewed.append(self.produce_fast != before)

    monkeypatch.setattr(TransactionalProducer, "renew", renewing)
    report = Player(broker, history, topic, transaction_records=100, batch_lines=50).play()
    assert (report.sent, sum(report.counts.values())) == (300, 300)
    assert renewed == [True] * 3
    messages = drain(topic)
    check_once_and_in_order(messages, 300)
    assert len(drain(topic, committed=False)) == 600
    assert report.end_offsets == {p: (found[-1].offset() or 0) + 1 for p, found in by_partition(messages).items()}


def test_a_run_that_is_taken_over_while_its_transaction_is_aborted_sends_nothing_more(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, history = fresh("taken"), find_history([str(write_lines(tmp_path, 1_000))], KEYED)
    later = Player(broker, history, topic)

    class TakenOver(TransactionalProducer):
        taken = False

        def commit(self) -> None:
            if not TakenOver.taken:
                TakenOver.taken = True
                self.flush()
                self.abort()
                later.play()
                raise Aborted("by the test")
            super().commit()

    monkeypatch.setattr(player, "TransactionalProducer", TakenOver)
    with pytest.raises(Rebuild, match="has taken over run"):
        Player(broker, history, topic, transaction_records=100, batch_lines=50).play()
    check_once_and_in_order(drain(topic), 1_000)


BAD = b"k,1\nbad\nk,2\n\xff\nk,3\n"


def test_a_bad_line_fails_with_its_place_and_sends_nothing(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path
) -> None:
    topic, path = fresh("bad"), tmp_path / "a.txt"
    path.write_bytes(BAD)
    history = find_history([str(path)], KEYED)
    with pytest.raises(BadLine, match=r"a\.txt:2: no delimiter ',', so the line has no key"):
        Player(broker, history, topic).play()
    assert drain(topic) == []
    # What to do with bad lines is not part of the run's identity, so a failed run goes on with another answer.
    report = Player(broker, history, topic, on_bad_line="skip").play()
    assert (report.sent, report.skipped) == (3, 2)
    assert report.examples[0] == f"{path}:2: no delimiter ',', so the line has no key"


def test_bad_lines_can_go_to_the_dead_letter_topic(broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path) -> None:
    topic, path = fresh("dead"), tmp_path / "a.txt"
    path.write_bytes(BAD)
    report = Player(broker, find_history([str(path)], KEYED), topic, on_bad_line="dead-letter").play()
    assert (report.sent, report.dead_letters) == (3, 2)
    letters = {m.value(): dict(m.headers() or []) for m in drain(f"{topic}.dlq")}
    assert set(letters) == {b"bad", b"\xff"}
    assert letters[b"bad"]["anabranch-reason"] == b"line"
    assert letters[b"bad"]["anabranch-source"] == f"{path}:2".encode()


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        ({"retention.ms": "604800000"}, "retention.ms=-1"),
        ({"message.timestamp.type": "LogAppendTime"}, "message.timestamp.type=CreateTime"),
        ({"cleanup.policy": "compact"}, "cleanup.policy=delete"),
    ],
)
def test_a_topic_that_would_lose_it_is_refused(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path, config: dict[str, str], setting: str
) -> None:
    topic, path = fresh("refused"), tmp_path / "a.csv"
    path.write_text("t,n\n2013-01-01,1\n")
    Admin(broker).create([TopicSpec(topic, 2, config=config)])
    history = find_history([str(path)], Format(time="t"))
    player = Player(broker, history, topic)
    with pytest.raises(Stop, match=setting):
        player.play()
    assert drain(topic) == []
    assert RunRegistry(broker).read(player.run_id) is None


def test_a_record_that_is_too_large_and_a_truncated_file_follow_the_policy(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path
) -> None:
    large, cut = tmp_path / "a.txt", tmp_path / "b.txt.gz"
    large.write_text("one\n" + "x" * 1_100_000 + "\ntwo\n")
    cut.write_bytes(gzip.compress(b"three\n" + random.Random(1).randbytes(9_000).hex().encode())[:-4_000])
    history, topic = find_history([str(large), str(cut)], Format()), fresh("large")
    with pytest.raises(BadLine, match=r"a\.txt:2: a record of 1,100,000 bytes[\s\S]*message\.max\.bytes"):
        Player(broker, history, topic).play()
    assert drain(topic) == []
    report = Player(broker, history, topic, on_bad_line="dead-letter").play()
    assert report.done
    assert {message.value() for message in drain(topic)} == {b"one", b"two", b"three"}
    letters = {dict(m.headers() or [])["anabranch-source"]: len(m.value() or b"") for m in drain(f"{topic}.dlq")}
    assert letters == {f"{large}:2".encode(): 900_000, f"{cut}:2".encode(): 0}


def test_a_topic_that_takes_less_than_we_send_at_a_time_gets_what_fits(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path
) -> None:
    topic, path, rng = fresh("small"), tmp_path / "a.txt", random.Random(1)
    lines = [rng.randbytes(50).hex() for _ in range(2_000)]
    path.write_text("\n".join((*lines[:1_000], rng.randbytes(9_000).hex(), *lines[1_000:])))
    Admin(broker).create([TopicSpec(topic, 1, config={"max.message.bytes": "10000"})])
    history = find_history([str(path)], Format())
    with pytest.raises(BadLine, match=r"a\.txt:1001: a record of 18,000 bytes[\s\S]*max\.message\.bytes"):
        Player(broker, history, topic).play()
    report = Player(broker, history, topic, on_bad_line="skip").play()
    assert (report.sent, report.skipped) == (2_000, 1)
    assert [(message.value() or b"").decode() for message in drain(topic)] == lines


def test_an_existing_topic_keeps_its_partitions_and_we_say_so(broker: Cluster, fresh: Fresh, tmp_path: Path) -> None:
    topic = fresh("two")
    Admin(broker).create([TopicSpec(topic, 2)])
    report = Player(broker, find_history([str(write_lines(tmp_path, 4))], Format()), topic, partitions=3).play()
    assert report.counts == {0: 2, 1: 2}
    assert report.warnings == (f"topic {topic} exists with 2 partitions, not 3",)


def test_a_socket_of_lines_is_played_to_its_end(broker: Cluster, fresh: Fresh, drain: Drain) -> None:
    topic = fresh("socket")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for text in (b"a,1\nb,2\nc,3", b"d,4\n"):
                connection, _ = server.accept()
                with connection:
                    connection.sendall(text)

        threading.Thread(target=serve, daemon=True).start()
        history = find_history([f"tcp://127.0.0.1:{server.getsockname()[1]}"], KEYED)
        first = Player(broker, history, topic).play()
        second = Player(broker, history, topic).play()
    assert (first.sent, first.resumable, second.sent, second.already_done) == (3, False, 1, False)
    assert sorted(m.value() or b"" for m in drain(topic)) == [b"a,1", b"b,2", b"c,3", b"d,4"]


def test_another_runs_open_transaction_does_not_hide_our_state(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path
) -> None:
    # Another run dies with a record in the topic of runs. Until its id comes back, readers stop before it:
    #     runs:  [ours, 5 sent] [its record, open] [ours, 10 sent, done]
    # So the end to read to must be that of the log, and not the last stable offset.
    runs, dead_id = RunRegistry(broker), fresh("dead-run")
    dead = TransactionalProducer(broker, dead_id)
    dead.open()

    def die_open(progress: Progress) -> None:
        if progress.sent == 5:
            dead.begin()
            dead.produce(runs.topic, b"{}", b"dead")
            dead.flush()

    def come_back() -> None:
        again = TransactionalProducer(broker, dead_id)
        again.open()
        again.close()

    topic, history = fresh("behind"), find_history([str(write_lines(tmp_path, 10))], KEYED)
    assert Player(broker, history, topic, transaction_records=5, batch_lines=5).play(die_open).done
    back = threading.Timer(0.5, come_back)
    back.start()
    assert Player(broker, history, topic).play().already_done
    back.join()
    check_once_and_in_order(drain(topic), 10)
