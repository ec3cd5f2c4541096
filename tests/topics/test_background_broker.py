"""The broker in the background: one for each folder, for all commands, until nobody uses it."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from anabranch.replay.cli.broker import broker
from anabranch.replay.cluster_choice import provide_cluster
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.devbroker import background
from anabranch.topics.devbroker.broker import EmbeddedBroker
from anabranch.topics.devbroker.distribution import KAFKA_VERSION
from anabranch.topics.devbroker.lease import Lease
from anabranch.topics.devbroker.running_broker import RunningBroker, is_occupied, last_port, running_at
from anabranch.topics.errors import Stop
from click.testing import CliRunner

DEADLINE_S = 60.0
SOON_S = 1.0
NEVER_S = 3600.0

# A command that uses the broker of a folder until a line arrives.
COMMAND = """
import sys
from pathlib import Path
from anabranch.topics.devbroker import background
with background.provide(Path(sys.argv[1]), idle_s=float(sys.argv[2])) as (running, stats):
    print(running.servers, running.owner, running.pid, stats is not None, flush=True)
    sys.stdin.readline()
"""


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:.0f} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A folder whose broker is ended after the test."""
    folder = tmp_path / "broker"
    yield folder
    if (running := running_at(folder)) is not None:
        background.stop(running)
    eventually(lambda: not is_occupied(folder), "the broker has ended")


class Command:
    """A process that uses the broker of a folder."""

    def __init__(self, data: Path, idle_s: float = NEVER_S) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(data), str(idle_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.servers, owner, pid, started = self.process.stdout.readline().split()
        self.owner, self.pid, self.started = int(owner), int(pid), started == "True"

    def end(self) -> None:
        self.process.communicate("end\n", timeout=DEADLINE_S)


def test_it_outlives_the_command_that_started_it_and_ends_when_nobody_uses_it(data: Path) -> None:
    #  first  ── starts it ── SIGINT to its group ✗
    #  second ───────── uses the same ─────────────── ends
    #  broker    ════════════════════════════════════════════ idle ── ends
    first, second = Command(data, SOON_S), Command(data)
    assert (first.started, second.started) == (True, False)
    assert (first.servers, first.pid) == (second.servers, second.pid)
    assert os.getsid(first.owner) == first.owner, "Ctrl-C in a terminal does not reach it"
    first.process.kill()
    first.process.wait()
    running = running_at(data)
    assert running is not None
    assert (running.background, running.kafka, running.servers) == (True, KAFKA_VERSION, second.servers)
    Admin(Cluster(running.servers)).create([TopicSpec("kept", 1)])
    second.end()
    gc.collect()  # closes the client of this process
    eventually(lambda: not is_occupied(data), "it ends without use")
    assert "nobody has used it for 1 s" in (data / background.LOG).read_text()
    third = Command(data)
    assert third.servers == second.servers, "its port stays"
    assert third.pid != second.pid
    assert Admin(Cluster(third.servers)).partitions() == {"kept": 1}, "and its data"
    third.end()


def test_a_client_without_a_lease_keeps_it(data: Path) -> None:
    with background.provide(data, idle_s=SOON_S) as (running, _):
        host, port = running.servers.split(":")
        client = socket.create_connection((host, int(port)))
    with client:
        eventually(lambda: running.clients() == 1, "the connections of the lease's time are closed")
        time.sleep(3 * SOON_S)
        assert running_at(data) == running
    eventually(lambda: not is_occupied(data), "it ends without clients")


def test_commands_that_begin_at_the_same_time_share_one(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_HOME", str(data.parent))
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    together = threading.Barrier(3, timeout=DEADLINE_S * 3)

    def command() -> tuple[str, bool]:
        together.wait()
        with provide_cluster(None) as place:
            together.wait()  # all are there at once
            assert place.embedded
            return place.cluster.bootstrap_servers, place.broker is not None

    with ThreadPoolExecutor(3) as commands:
        found = [future.result() for future in [commands.submit(command) for _ in range(3)]]
    assert len({servers for servers, _ in found}) == 1
    assert sorted(started for _, started in found) == [False, False, True]


@pytest.mark.parametrize("victim", ["owner", "pid"])
def test_its_loss_is_said_once_and_the_next_command_starts_it_again(data: Path, victim: str) -> None:
    lost: list[RunningBroker] = []
    with background.provide(data, on_lost=lost.append, idle_s=NEVER_S) as (running, _):
        os.kill(getattr(running, victim), signal.SIGKILL)
        eventually(lambda: lost == [running], "the loss is said")
        assert not running.lives
        with background.provide(data, idle_s=NEVER_S) as (again, stats):
            assert stats is not None
            assert again.servers == running.servers
            assert again.pid != running.pid
    background.stop(again)
    assert lost == [running], "an end outside of the block is no loss"


def test_a_command_that_loses_it_ends_with_one_sentence(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_HOME", str(data.parent))
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    said: list[str] = []
    with (
        pytest.raises(Stop, match=r"^the embedded Kafka at 127\.0\.0\.1:\d+ has ended") as failed,
        provide_cluster(None, {"log_level": "0"}, on_lost=said.append) as place,
    ):
        running = running_at(data)
        assert running is not None
        background.stop(running)
        Admin(place.cluster).partitions(timeout_s=0.1)
    assert "run the same command again" in failed.value.hint
    eventually(lambda: len(said) == 1, "it is said when it happens, too")
    assert "anabranch broker start" in said[0]


def test_a_command_whose_broker_s_folder_is_deleted_does_not_promise_its_data(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANABRANCH_HOME", str(data.parent))
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    said: list[str] = []
    with (
        pytest.raises(Stop, match=r"has ended, because its folder .* was deleted") as failed,
        provide_cluster(None, {"log_level": "0"}, on_lost=said.append) as place,
    ):
        shutil.rmtree(data, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)  # Kafka may have written meanwhile
        eventually(lambda: len(said) == 1, "it is said")
        Admin(place.cluster).partitions(timeout_s=0.1)
    assert "begins with an empty" in failed.value.hint
    assert "begins with an empty" in said[0] and "with its data" not in said[0]


def test_a_deleted_folder_ends_it_and_the_next_command_starts_another(data: Path) -> None:
    with background.provide(data, idle_s=NEVER_S) as (first, _):
        shutil.rmtree(data, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)  # Kafka may have written meanwhile
        with background.provide(data, idle_s=NEVER_S) as (second, stats):
            assert stats is not None
            assert first.pid != second.pid
            eventually(lambda: not first.lives, "the one without a folder ends")
            assert running_at(data) == second


def test_it_takes_another_port_if_its_own_is_taken(data: Path) -> None:
    with background.provide(data, idle_s=NEVER_S) as (first, _):
        pass
    background.stop(first)
    port = int(first.servers.split(":")[1])
    assert last_port(data) == port
    with (
        socket.create_server(("127.0.0.1", port)),
        background.provide(data, idle_s=NEVER_S) as (second, _),
    ):
        assert second.servers != first.servers
    with socket.create_server(("127.0.0.1", 0)) as stranger, pytest.raises(Stop, match="Address already in use"):
        background.stop(second)
        background.start(data, port=stranger.getsockname()[1])


def test_a_broker_in_the_foreground_serves_the_commands_of_its_folder(data: Path) -> None:
    with EmbeddedBroker(data) as own:
        with background.provide(data, idle_s=SOON_S) as (running, stats):
            assert stats is None
            assert (running.servers, running.background) == (own.bootstrap_servers, False)
        assert background.start(data) is None, "a second one is not started"
        port = own.bootstrap_servers.rpartition(":")[2]
        start = ["start", "--data", str(data), "--port"]
        assert "runs already" in CliRunner().invoke(broker, [*start, port]).output
        assert isinstance(CliRunner().invoke(broker, [*start, "1"]).exception, Stop), "it is not at that port"


def test_a_broker_of_another_version_is_used_while_it_runs(data: Path) -> None:
    with EmbeddedBroker(data) as own:
        facts = json.loads((data / "broker.json").read_text()) | {"kafka": "4.2.0", "unknown": "to this version"}
        (data / "broker.json").write_text(json.dumps(facts))
        with background.provide(data) as (running, _):
            assert (running.kafka, running.servers) == ("4.2.0", own.bootstrap_servers)


def test_data_that_kafka_cannot_read_is_said_with_its_log(data: Path) -> None:
    (data / "log").mkdir(parents=True)
    (data / "log" / "meta.properties").write_text("version=9\ncluster.id=x\nnode.id=1\n")
    with pytest.raises(Stop, match=r"the embedded Kafka ended with 1(?s:.*)broker\.log ends with"):
        background.start(data)
    assert not is_occupied(data)
    assert "not started" in (data / background.LOG).read_text()


def test_a_folder_of_another_user_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.mkdir()

    def refused(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refused)
        with pytest.raises(Stop, match="Permission denied") as failed:
            Lease.take(data)
    assert "ANABRANCH_HOME" in failed.value.hint


def test_the_process_of_another_user_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(_pid: int, _number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    running = RunningBroker(Path(), "127.0.0.1:1", os.getpid(), os.getpid(), True, "", 0, 0)
    assert running.lives
    with pytest.raises(Stop, match="belongs to another user"):
        background.stop(running)


def test_a_zombie_does_not_live() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert not RunningBroker(Path(), "127.0.0.1:1", child.pid, os.getpid(), True, "", 0, 0).lives
    finally:
        child.wait()


def test_leases_exclude_an_end_and_an_end_excludes_leases(tmp_path: Path) -> None:
    with Lease.take(tmp_path), Lease.take(tmp_path):
        assert Lease.is_held(tmp_path)
        assert Lease.exclude(tmp_path) is None
    assert not Lease.is_held(tmp_path)
    ending = Lease.exclude(tmp_path)
    assert ending is not None
    with ThreadPoolExecutor(1) as threads:
        taken = threads.submit(Lease.take, tmp_path)
        with contextlib.suppress(TimeoutError):
            taken.result(0.2)
        assert not taken.done()
        ending.release()
        taken.result(DEADLINE_S).release()


def test_a_lease_of_a_deleted_folder_is_taken_anew(tmp_path: Path) -> None:
    data = tmp_path / "broker"
    old = Lease.take(data)
    shutil.rmtree(data)
    with Lease.take(data):
        assert (data / "lease").exists()
    old.release()
