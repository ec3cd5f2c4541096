"""The embedded broker starts, keeps or deletes its data, is found by other commands, and ends with its owner."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.devbroker import distribution
from anabranch.topics.devbroker.broker import EmbeddedBroker
from anabranch.topics.devbroker.distribution import Distribution
from anabranch.topics.devbroker.java import Java
from anabranch.topics.devbroker.running_broker import running_at
from anabranch.topics.errors import Stop
from confluent_kafka import Producer

DEADLINE_S = 30.0

# A program with a broker; it says where, and then does what the test writes to it.
PROGRAM = """
import os, sys
from pathlib import Path
from anabranch.topics.devbroker.broker import EmbeddedBroker
broker = EmbeddedBroker(Path(sys.argv[1]))
stats = broker.start()
print(stats.pid, stats.bootstrap_servers, flush=True)
sys.stdin.readline()
sys.exit("the end without a stop()")
"""


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:.0f} s: {what}"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def listens(servers: str) -> bool:
    host, port = servers.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1.0).close()
    except OSError:
        return False
    return True


def put(servers: str, topic: str, value: bytes) -> None:
    producer = Producer(Cluster(servers).config())
    producer.produce(topic, value, b"k")
    assert producer.flush(DEADLINE_S) == 0


@pytest.fixture(scope="module")
def kafka() -> Distribution:
    return Distribution.get(print)


def test_it_starts_on_loopback_stops_and_forgets_a_temporary_folder() -> None:
    with EmbeddedBroker() as broker:
        stats = broker.stats
        assert broker.alive
        assert broker.bootstrap_servers.startswith("127.0.0.1:")
        assert listens(broker.bootstrap_servers)
        assert Admin(Cluster(broker.bootstrap_servers)).partitions() == {}
        assert 0 < stats.rss_bytes() <= stats.peak_rss_bytes() < 1 << 30
        assert stats.data.exists()
        # Nobody but this machine may reach it; Linux lists listeners of all addresses as 00000000 or ::.
        port = int(broker.bootstrap_servers.split(":")[1])
        assert _listening_addresses(stats.pid, port) == {"127.0.0.1"}
    assert not broker.alive
    assert not runs(stats.pid)
    assert not listens(stats.bootstrap_servers)
    assert not stats.data.exists()
    assert stats.rss_bytes() == 0
    broker.stop()  # once more is fine


def _listening_addresses(pid: int, port: int) -> set[str]:
    found: set[str] = set()
    for table, length in (("tcp", 8), ("tcp6", 32)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, number = local.partition(":")
            if int(number, 16) == port and state == "0A":
                assert len(address) == length
                last = bytes.fromhex(address[-8:])[::-1]
                found.add(".".join(map(str, last)))
    return found


def test_a_given_folder_keeps_topics_and_records_over_stop_crash_and_another_port(
    tmp_path: Path, kafka: Distribution, drain
) -> None:
    #  start ── "stopped" ── stop ── start ── "crashed" ── SIGKILL ── start ── both are there ── another port: still
    first = EmbeddedBroker(tmp_path, settings={"broker.session.timeout.ms": "1000"})
    servers = first.start().bootstrap_servers
    cluster_id = _cluster_id(tmp_path)
    Admin(Cluster(servers)).create([TopicSpec("kept", 1)])
    put(servers, "kept", b"stopped")
    first.stop()

    again = first.start()
    assert again.bootstrap_servers == servers, "clients come back to the address they know"
    put(servers, "kept", b"crashed")
    first.kill()
    assert not first.alive
    assert running_at(tmp_path) is None
    first.start()
    assert [m.value() for m in drain("kept", cluster=Cluster(servers))] == [b"stopped", b"crashed"]
    first.stop()

    # Connections of the broker's time keep its port from a plain bind for a minute; this one sets SO_REUSEADDR.
    with socket.create_server(("127.0.0.1", int(servers.split(":")[1]))) as stranger:
        # The same object would come back at its port, and takes another one where it cannot.
        with first as elsewhere:
            assert elsewhere.bootstrap_servers != servers
            assert len(drain("kept", cluster=Cluster(elsewhere.bootstrap_servers))) == 2
        with pytest.raises(Stop, match="Address already in use"):
            EmbeddedBroker(tmp_path, port=stranger.getsockname()[1]).start()
    assert _cluster_id(tmp_path) == cluster_id
    _assert_formatted_as_kafka_does_it(kafka, tmp_path)


def _assert_formatted_as_kafka_does_it(kafka: Distribution, data: Path) -> None:
    run = subprocess.run(
        kafka.command("kafka.tools.StorageTool", "info", "--config", str(data / "server.properties")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Found problem" not in run.stdout, run.stdout
    assert _cluster_id(data).removeprefix("cluster.id=") in run.stdout


def _cluster_id(data: Path) -> str:
    lines = (data / "log" / "meta.properties").read_text().splitlines()
    return next(line for line in lines if line.startswith("cluster.id="))


def test_a_second_broker_on_a_folder_is_refused_and_the_first_is_found(tmp_path: Path) -> None:
    assert running_at(tmp_path) is None
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout is not None
        pid, servers = program.stdout.readline().split()
        assert (found := running_at(tmp_path)) is not None
        assert (found.servers, found.owner, found.background) == (servers, program.pid, False)
        with pytest.raises(Stop, match=f"in use by another broker at {servers}") as refused:
            EmbeddedBroker(tmp_path).start()
        assert f"--bootstrap-server {servers}" in refused.value.hint
        assert listens(servers), "a refused start leaves the other alone"
        # An end by sys.exit, without stop(): atexit ends Java.
        program.communicate("go\n", timeout=DEADLINE_S)
        assert not runs(int(pid))
        assert running_at(tmp_path) is None
    finally:
        program.kill()
        program.wait()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_java_dies_with_a_parent_that_is_killed_and_the_folder_is_free(tmp_path: Path, sent: signal.Signals) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    pid, servers = program.stdout.readline().split()
    assert runs(int(pid))
    program.send_signal(sent)
    program.communicate(timeout=DEADLINE_S)
    eventually(lambda: not runs(int(pid)), "Java ends")
    assert not listens(servers)
    # The stale broker.json of the killed one misleads nobody. (A process has its files a moment longer than its name.)
    assert json.loads((tmp_path / "broker.json").read_text())["pid"] == int(pid)
    eventually(lambda: running_at(tmp_path) is None, "the folder is free")


def test_a_start_from_a_thread_that_ends_keeps_the_broker() -> None:
    broker = EmbeddedBroker()
    thread = threading.Thread(target=broker.start)
    thread.start()
    thread.join()
    try:
        # Linux sends the parent-death signal when the starting thread ends; were it sent, Java would be gone by then.
        assert Admin(Cluster(broker.bootstrap_servers)).partitions() == {}
        with pytest.raises(subprocess.TimeoutExpired):
            assert broker._java is not None and broker._java._process is not None
            broker._java._process.wait(0.7)
    finally:
        broker.stop()


def test_java_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(Stop, match=r"ended with 1(?s:.*)num\.io\.threads") as failed:
        EmbeddedBroker(tmp_path, settings={"num.io.threads": "none"}).start()
    assert str(tmp_path / "broker.log") in str(failed.value)
    # What failed holds nothing back.
    with EmbeddedBroker(tmp_path) as broker:
        assert broker.alive


def test_java_has_the_users_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_JAVA_OPTIONS", "-Xss512k  -XX:+NoSuchOption")
    with pytest.raises(Stop, match=r"ended with 1(?s:.*)NoSuchOption"):
        EmbeddedBroker(tmp_path).start()


def test_data_of_a_newer_kafka_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What Kafka 4.2 says about data of Kafka 4.3, whose jars are not at hand.
    said = (
        "Caused by: org.apache.kafka.common.errors.UnsupportedVersionException: Can't read version 4 of BrokerEndpoint"
    )
    monkeypatch.setattr(Java, "log_tail", lambda _: said)
    with pytest.raises(Stop, match="written by a newer Kafka than") as failed:
        EmbeddedBroker(tmp_path, settings={"num.io.threads": "none"}).start()
    assert str(tmp_path) in str(failed.value)
    assert "ANABRANCH_HOME" in str(failed.value.hint)


def test_temporary_folders_of_killed_processes_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anabranch.topics.devbroker import broker

    monkeypatch.setattr(broker.tempfile, "tempdir", str(tmp_path))
    dead, young, live = (tmp_path / f"anabranch-broker-{name}" for name in ("dead", "young", "live"))
    for folder in (dead, young, live):
        folder.mkdir()
        (folder / "lock").touch()
    for folder in (dead, live):
        os.utime(folder, (0, 0))
    lock = broker._lock(live)
    try:
        broker._sweep_abandoned()
    finally:
        os.close(lock)
    assert [folder.exists() for folder in (dead, young, live)] == [False, True, True]


def test_no_network_and_no_cache_is_said_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(maven: Path, on_progress: object) -> list[Path]:
        raise ConnectionError("no route to host")

    monkeypatch.setenv("ANABRANCH_CACHE", str(tmp_path))
    monkeypatch.setattr(distribution, "resolve_jars", unreachable)
    with pytest.raises(Stop, match="cannot be fetched from Maven Central: ConnectionError: no route") as failed:
        EmbeddedBroker().start()
    assert "--bootstrap-server" in failed.value.hint
    assert "copy that folder" in failed.value.hint
    assert [path.name for path in tmp_path.iterdir()] == [f"kafka-{distribution.KAFKA_VERSION}.lock"]


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ANABRANCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(Stop, match="cannot be stored in") as failed:
        EmbeddedBroker().start()
    assert "ANABRANCH_CACHE" in failed.value.hint


def test_two_at_once_fetch_once_and_what_a_killed_one_left_is_swept(
    tmp_path: Path, kafka: Distribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def copies(maven: Path, on_progress: Callable[[str], None]) -> list[Path]:
        calls.append(maven)
        maven.mkdir()
        for jar in kafka.classpath:
            (maven / jar.name).symlink_to(jar)
        on_progress("fetching")
        return [maven / jar.name for jar in kafka.classpath]

    leftover = tmp_path / f"kafka-{distribution.KAFKA_VERSION}.part-killed"
    leftover.mkdir()
    monkeypatch.setenv("ANABRANCH_CACHE", str(tmp_path))
    monkeypatch.setattr(distribution, "resolve_jars", copies)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: Distribution.get(), range(2))
    assert len(calls) == 1
    assert not leftover.exists()
    assert one.classpath == other.classpath
    assert [jar.name for jar in one.classpath] == [jar.name for jar in kafka.classpath]
    assert sorted(seconds > 0 for seconds in (one.download_s, other.download_s)) == [False, True]
    # The features a new cluster starts with do not depend on who formatted.
    assert len(one.bootstrap_checkpoint.read_bytes()) == len(kafka.bootstrap_checkpoint.read_bytes())
