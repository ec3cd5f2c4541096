"""Order, selection, pace and loop by command on a real broker, killed at random moments."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anabranch.replay.pipeline.pace import Pace
from anabranch.replay.pipeline.pipeline import Pipeline
from anabranch.replay.player import Player
from anabranch.replay.replay_report import Progress
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.format import Format
from anabranch.topics.clock import Clock
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Stop
from confluent_kafka import Message

Drain = Callable[..., list[Message]]
Fresh = Callable[..., str]

BEGIN_MS = 1_357_034_400_000


def write_parts(folder: Path, count: int, parts: int, *, shuffled_within: int = 0) -> list[dict[str, Any]]:
    """Files whose records interleave in time; in each, records may stand a little before or behind their place."""
    rng = random.Random(5)
    rows = [{"at": BEGIN_MS + n * 1000, "user": f"u{n % 23}", "n": n} for n in range(count)]
    for part in range(parts):
        own = [row for row in rows if row["n"] % parts == part]
        if shuffled_within:
            for begin in range(0, len(own), shuffled_within):
                block = own[begin : begin + shuffled_within]
                rng.shuffle(block)
                own[begin : begin + shuffled_within] = block
        (folder / f"part{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    return rows


def numbers(messages: list[Message]) -> dict[int, list[int]]:
    """The records of each partition, in order."""
    found: dict[int, list[int]] = {}
    for message in messages:
        found.setdefault(message.partition() or 0, []).append(json.loads(message.value() or b"")["n"])
    return found


# The real command, with small transactions. It says after each how far it is, and waits for a line of its input.
CHILD = """
import sys

class Asking:
    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def write(self, text):
        self._inner.write(text)
        self._inner.flush()
        sys.stdin.readline()

sys.stderr = Asking(sys.stderr)
from anabranch.replay import player
from anabranch.replay.cli import console
console._LINE_EVERY_S = 0
player.Player.__init__.__kwdefaults__.update(transaction_records=2000, batch_lines=500)
from anabranch.replay.cli.entry import main
main()
"""

#               options, records, how far they are from their places in a file, how often they are sent
STORMS = {
    "merged": ([], 40_000, 0, 1),
    "sorted at a rate": (["--out-of-order", "sort:3000", "--rate", "10000/s"], 20_000, 500, 1),
    "looped and selected": (["--loop", 3, "--where", "n >= 0", "--rate", "30000/s"], 20_000, 0, 3),
}


@pytest.mark.parametrize("name", STORMS)
def test_killed_again_and_again_it_is_all_there_once_and_in_order(
    name: str, broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path
) -> None:
    #   start ── commit, commit ─ ✗   start ── commit ─ ✗   …   start ─────────────▶ end   start: already finished
    options, count, shuffled, rounds = STORMS[name]
    rows = write_parts(tmp_path, count, 3, shuffled_within=shuffled)
    topic, rng = fresh("storm"), random.Random(11)
    asked = [sys.executable, "-c", CHILD, "replay", *map(str, sorted(tmp_path.glob("*.jsonl")))]
    asked += ["--to", topic, "--key", "user", "--time", "at", *map(str, options)]
    environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers}
    for _ in range(3):
        with subprocess.Popen(
            asked, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True, cwd=tmp_path
        ) as child:
            assert child.stderr
            assert child.stdin
            # Nine of ten transactions at most, for one more is committed before it waits again.
            for _ in range(rng.randrange(1, 3)):
                said = child.stderr.readline()
                child.stdin.write("\n")
                child.stdin.flush()
            # Somewhere in the next transaction, which is being filled, flushed or committed.
            child.kill()
            assert child.wait() == -signal.SIGKILL, f"over before it was killed: {said}"
    ended = subprocess.run(
        asked, stdin=subprocess.DEVNULL, capture_output=True, env=environment, text=True, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    assert "resumed after" in ended.stdout
    again = subprocess.run(
        asked, stdin=subprocess.DEVNULL, capture_output=True, env=environment, text=True, cwd=tmp_path
    )
    assert "already finished" in again.stdout, again.stderr

    found = numbers(drain(topic))
    assert sum(map(len, found.values())) == rounds * count
    where = {n: partition for partition, placed in found.items() for n in placed}
    for partition, placed in found.items():
        assert placed == rounds * [row["n"] for row in rows if where[row["n"]] == partition]


def test_killed_with_a_spool_each_line_that_came_is_there_once(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path
) -> None:
    #   connection ── lines, in the spool ─ ✗   connection ── more lines ─ ✗   …   connection ── the last lines, end
    spool, topic, rng, sent = tmp_path / "lines.spool", fresh("spool"), random.Random(3), 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        spec = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        asked = [sys.executable, "-c", CHILD, "replay", spec, "--to", topic, "--partitions", "1", "--spool", str(spool)]
        environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers}
        for killed in (True, True, True, False):
            with subprocess.Popen(
                asked, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
            ) as child:
                connection, _ = server.accept()
                with connection:
                    more = range(sent, sent + rng.randrange(2_000, 20_000))
                    connection.sendall(b"".join(b"%d\n" % n for n in more))
                    sent = more.stop
                    if killed:
                        last, deadline = b"%d\n" % (sent - 1), time.monotonic() + 60
                        while not spool.read_bytes().endswith(last):
                            assert time.monotonic() < deadline
                            time.sleep(0.001)
                        # Received and written down; how much of it is sent and committed is up to chance.
                        child.kill()
                said, why = child.communicate(timeout=150)
                assert child.returncode == (-signal.SIGKILL if killed else 0), why
        assert b"resumed after" in said, said
        again = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, env=environment, text=True)
        assert "already finished" in again.stdout, again.stderr
    assert [int(message.value() or b"") for message in drain(topic)] == list(range(sent))


class Hand(Clock):
    """Time that passes when somebody waits."""

    now = 0.0

    def now_s(self) -> float:
        return self.now

    def wait(self, stop: Any, seconds: float) -> None:
        self.now += seconds


def test_a_replay_keeps_its_pace_and_says_where_it_is(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path
) -> None:
    write_parts(tmp_path, 600, 2)
    history = find_history([str(tmp_path / "*.jsonl")], Format(key="user", time="at"))
    clock, topic, seen = Hand(), fresh("paced"), list[tuple[float, Progress]]()
    player = Player(broker, history, topic, pace=Pace(speed=60), clock=clock)
    first = player.play(lambda progress: (seen.append((clock.now, progress)), progress.sent > 200 and player.stop()))
    assert not first.done
    for now, progress in seen:
        ahead_s = (progress.at_ms - BEGIN_MS) / 1000 / 60
        assert ahead_s - 1e-9 <= now <= ahead_s + 0.3
    clock.now += 50_000
    second = Player(broker, history, topic, pace=Pace(rate=100), clock=clock).play()
    assert second.seconds == pytest.approx(second.sent_now / 100, abs=0.3)
    assert second.done
    assert sum(map(len, numbers(drain(topic)).values())) == 600


def test_a_changed_transform_is_refused(broker: Cluster, fresh: Fresh, tmp_path: Path, monkeypatch: Any) -> None:
    write_parts(tmp_path, 20, 1)
    (tmp_path / "mine.py").write_text("def same(record):\n    return record\n")
    history = find_history([str(tmp_path / "part0.jsonl")], Format(time="at"))
    pipeline, topic = Pipeline(transform=str(tmp_path / "mine.py") + ":same"), fresh("changed")
    assert Player(broker, history, topic, pipeline=pipeline).play().sent == 20
    assert Player(broker, history, topic, pipeline=pipeline).play().already_done
    (tmp_path / "mine.py").write_text("def same(record):\n    return [record, record]\n")
    with pytest.raises(Stop, match=r"transform .*mine\.py:same of run \w+ has changed"):
        Player(broker, history, topic, pipeline=pipeline).play()
