"""One Kafka node in KRaft mode: the content of its folder, its start, and its readiness."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException

from .. import clock
from ..cluster import Cluster
from ..durable_files import replace_file
from ..errors import Stop
from ..identifiers import kafka_uuid
from .distribution import KAFKA_VERSION, Distribution, OnProgress, locked
from .java import Java

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

__all__ = ["Node", "aot_flags", "rehearse_once", "user_flags"]

HOST = "127.0.0.1"
START_S = 120.0

# Most objects of a broker are short-lived. With Java's default, a third of the heap, collections are rare but stop the
# broker for 20 to 50 ms, which made the slowest records of an agent slow; with this size they take 5 to 15 ms, and less
# memory.
_YOUNG_MB = 24

_LOG4J = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="ERROR" shutdownHook="disable">
  <Appenders><Console name="out"><PatternLayout pattern="%d %p %m (%c)%n%ex"/></Console></Appenders>
  <Loggers><Root level="WARN"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""

_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "CLIENT",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    # One node has one replica; few partitions of the internal topics make their first use fast.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # Groups on one machine are complete at once, and tests let members time out.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    # For KIP-848 groups, whose members learn of a rebalance by heartbeats; Kafka's defaults are 45 s and 5 s.
    "group.consumer.session.timeout.ms": "10000",
    "group.consumer.heartbeat.interval.ms": "500",
    # The interval in which transactions beyond their timeout are aborted, which hold back readers; default 10 s.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # After a SIGKILL the new broker is unfenced when the session of the old one ends; Kafka's default is 9 s. With much
    # less, a broker on a busy machine is late with its heartbeats and fenced by its own controller.
    "broker.session.timeout.ms": "6000",
    "broker.heartbeat.interval.ms": "500",
    # Kafka deletes by record timestamp, and a replay carries old ones.
    "log.retention.ms": "-1",
    # Kafka's default of 128 MiB is allocated at once: a third of the process. This is enough for 600,000 keys a pass.
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
    "num.network.threads": "2",
    "num.io.threads": "4",
}


class Node:
    """A node that runs on the folder `data`; `servers` are the bootstrap servers for clients.

    Args:
        data: its folder; formatted if it is not.
        port: for clients; 0 for a free one.
        heap_mb: Java's maximum heap in MiB.
        settings: broker configuration; wins over the defaults.
        flags: more options for Java.
        lock: a descriptor that Java holds open as well; -1 for none.

    Raises:
        Stop: Java does not start, or the folder is not a Kafka data folder.
    """

    def __init__(
        self,
        kafka: Distribution,
        data: Path,
        *,
        port: int = 0,
        heap_mb: int = 512,
        settings: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        lock: int = -1,
    ) -> None:
        self._cluster_id = _format(kafka, data / "log")
        self.port, controller_port = _choose_ports(port)
        self.servers = f"{HOST}:{self.port}"
        (data / "tmp").mkdir(exist_ok=True)
        replace_file(data / "log4j2.xml", _LOG4J.encode())
        replace_file(data / "server.properties", _properties(data, self.port, controller_port, settings or {}).encode())
        log = data / "broker.log"
        if log.exists():
            log.replace(data / "broker.log.1")
        options = [
            f"-Xmx{heap_mb}m",
            f"-Xmn{min(_YOUNG_MB, heap_mb // 4)}m",
            "-XX:+ExitOnOutOfMemoryError",
            f"-XX:ErrorFile={data / 'java-crash.log'}",
            # Compression libraries unpack themselves there, and stay behind after a SIGKILL.
            f"-Djava.io.tmpdir={data / 'tmp'}",
            f"-Dlog4j2.configurationFile={data / 'log4j2.xml'}",
            *flags,
        ]
        command = kafka.command("kafka.Kafka", str(data / "server.properties"), flags=options)
        self.java = Java(command, log=log, lock=lock)

    def await_ready(self) -> None:
        """Wait until it answers Kafka's protocol as the broker of this cluster (at most `START_S`).

        Raises:
            Stop: Java ended, or it does not answer; with the last lines of the log.
        """
        deadline = clock.now_s() + START_S
        while not self._listens():
            self._check(deadline)
            clock.sleep(0.02)
        # librdkafka would log that no broker answers yet.
        quiet = {"log_level": "0", "reconnect.backoff.ms": "20", "reconnect.backoff.max.ms": "100"}
        client = Cluster(self.servers, quiet).admin()
        while not self._answers(client):
            self._check(deadline)
            clock.sleep(0.01)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1.0):
            return True
        return False

    def _answers(self, client: AdminClient) -> bool:
        with contextlib.suppress(KafkaException):
            found = client.list_topics(timeout=1.0)
            # The cluster id shows that no other broker has the port.
            return len(found.brokers) == 1 and str(found.cluster_id) == self._cluster_id
        return False

    def _check(self, deadline: float) -> None:
        if not self.java.alive:
            raise self._failed(f"ended with {self.java.exit_code}")
        if clock.now_s() > deadline:
            raise self._failed(f"does not answer after {START_S:.0f} s")

    def _failed(self, what: str) -> Stop:
        tail = self.java.log_tail()
        if "UnsupportedVersionException" in tail:
            return Stop(
                f"the data in {self.java.log.parent} were written by a newer Kafka than {KAFKA_VERSION}, so that it "
                "cannot read them",
                hint="delete the folder, if its records are not needed, or name another one: ANABRANCH_HOME, or --data "
                "PATH of `anabranch broker`",
            )
        return Stop(
            f"the embedded Kafka {what}; {self.java.log} ends with\n{tail}",
            hint="--bootstrap-server uses a Kafka that already runs",
        )


def aot_flags(kafka: Distribution) -> list[str]:
    """Return the Java options that use the AOT cache, if there is one."""
    aot = kafka.aot_cache
    if aot is None or not aot.exists() or not aot.stat().st_size:
        return []
    # Java checks that the cache belongs to this Java and these jars, and ignores it if not.
    return [f"-XX:AOTCache={aot}", "-Xlog:aot*=off"]


def user_flags() -> list[str]:
    """Return the options of `ANABRANCH_JAVA_OPTIONS`. The rehearsal is without them: its cache is for all starts."""
    return os.environ.get("ANABRANCH_JAVA_OPTIONS", "").split()


def rehearse_once(kafka: Distribution, on_progress: OnProgress | None = None) -> float:
    """Let Java record the classes of a start in its AOT cache (JEP 483, 514), so that later starts take half as long.

    Best effort, once for each Java: after a failure an empty file prevents further attempts. Returns the seconds taken.
    """
    aot = kafka.aot_cache
    if aot is None or aot.exists() or not os.access(kafka.root, os.W_OK):
        return 0.0
    begun = clock.now_s()
    with locked(aot.with_suffix(".lock")), tempfile.TemporaryDirectory(prefix="anabranch-rehearsal-") as data:
        if not aot.exists():
            if on_progress is not None:
                on_progress("preparing fast starts")
            written = aot.with_suffix(".part")
            written.unlink(missing_ok=True)
            with contextlib.suppress(Stop):
                _rehearse(kafka, Path(data), written)
            if not written.exists():
                written.touch()
            written.replace(aot)
    return clock.now_s() - begun


def _rehearse(kafka: Distribution, data: Path, written: Path) -> None:
    node = Node(kafka, data, flags=[f"-XX:AOTCacheOutput={written}"])
    try:
        node.await_ready()
    finally:
        # Java writes the cache while it ends.
        if node.java.end(START_S) == -signal.SIGKILL:
            written.unlink(missing_ok=True)


def _properties(data: Path, port: int, controller_port: int, settings: Mapping[str, str]) -> str:
    """Return the text of server.properties."""
    listeners = {
        # A static voter with its address here, not in the log: so a kept folder can start on another port.
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "listeners": f"CLIENT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"CLIENT://{HOST}:{port}",
        "log.dirs": str(data / "log"),
    }
    return "".join(f"{name}={value}\n" for name, value in {**_SETTINGS, **listeners, **settings}.items())


def _format(kafka: Distribution, log: Path) -> str:
    """Format `log` as a storage folder, as `kafka-storage format` does, unless it is one; return the cluster id."""
    meta = log / "meta.properties"
    if meta.exists():
        facts = dict(line.split("=", 1) for line in meta.read_text().splitlines() if "=" in line and line[0] != "#")
        if "cluster.id" not in facts:
            raise Stop(f"{meta} has no cluster.id", hint="name another data folder, or remove this one")
        return facts["cluster.id"]
    log.mkdir(parents=True, exist_ok=True)
    cluster_id = kafka_uuid()
    shutil.copyfile(kafka.bootstrap_checkpoint, log / "bootstrap.checkpoint")
    # Last and atomically: this file marks the folder as formatted.
    replace_file(meta, f"version=1\ncluster.id={cluster_id}\nnode.id=1\ndirectory.id={kafka_uuid()}\n".encode())
    return cluster_id


def _choose_ports(port: int) -> tuple[int, int]:
    """Return `port`, or a free one if it is 0, and another free port."""
    with socket.socket() as client, socket.socket() as controller:
        # As Java does: closing connections of an earlier broker do not matter.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            client.bind((HOST, port))
        except OSError as exc:
            raise Stop(
                f"port {port} cannot be used: {exc.strerror}", hint="choose another port, or 0 for a free one"
            ) from exc
        controller.bind((HOST, 0))
        return client.getsockname()[1], controller.getsockname()[1]
