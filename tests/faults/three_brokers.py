"""A cluster of three brokers: KRaft with three controllers, three replicas, and two in-sync replicas for a write."""

from __future__ import annotations

import base64
import shutil
import time
import uuid
from pathlib import Path

from anabranch.topics.cluster import Cluster
from anabranch.topics.devbroker.distribution import Distribution
from anabranch.topics.devbroker.kraft_node import Node
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from proxy import free_port

__all__ = ["ThreeBrokers"]

START_S = 180.0
STOP_S = 20.0
_CLUSTER_ID = "anabranch-faults-three"  # 22 characters, as Kafka's own


class ThreeBrokers:
    """A cluster of three brokers, numbered from 0; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kafka = Distribution.get()
        self._ports = [(free_port(), free_port()) for _ in range(3)]
        self._nodes: list[Node | None] = [None, None, None]
        self.bootstrap_servers = ",".join(f"127.0.0.1:{client}" for client, _ in self._ports)

    def __enter__(self) -> ThreeBrokers:
        for number in range(3):
            self.launch(number)
        self._await_all()
        return self

    def __exit__(self, *_: object) -> None:
        for number in range(3):
            self.kill(number)

    def launch(self, number: int) -> None:
        """Start a broker; return before it answers."""
        data, (port, controller) = self._folder / f"node-{number}", self._ports[number]
        if not data.exists():
            _format(self._kafka, data, number)
        voters = ",".join(f"{i + 1}@127.0.0.1:{c}" for i, (_, c) in enumerate(self._ports))
        settings = {
            "node.id": str(number + 1),
            "controller.quorum.voters": voters,
            "listeners": f"CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "offsets.topic.replication.factor": "3",
            "transaction.state.log.replication.factor": "3",
            "transaction.state.log.min.isr": "2",
            "min.insync.replicas": "2",
            "default.replication.factor": "3",
            # Three brokers share two cores with the test.
            "broker.session.timeout.ms": "9000",
            "controller.quorum.fetch.timeout.ms": "6000",
            "controller.quorum.election.timeout.ms": "3000",
        }
        self._nodes[number] = Node(self._kafka, data, port=port, heap_mb=256, settings=settings)

    def kill(self, number: int) -> None:
        """kill -9 a broker; its partitions get other leaders after its session timeout."""
        node = self._nodes[number]
        if node is not None:
            node.java.end(0.0)

    def _await_all(self) -> None:
        deadline_s = time.monotonic() + START_S
        while not self._complete():
            assert time.monotonic() < deadline_s, "the three brokers have not formed a cluster in time"
            time.sleep(0.2)

    def _complete(self) -> bool:
        """Whether all brokers are up. A new client asks each time: one that knows no broker may hang for ever."""
        client = AdminClient(Cluster(self.bootstrap_servers, {"log_level": "0"}).config())
        try:
            return len(client.list_topics(timeout=2.0).brokers) == 3
        except KafkaException:
            return False


def _format(kafka: Distribution, data: Path, number: int) -> None:
    log = data / "log"
    log.mkdir(parents=True)
    shutil.copyfile(kafka.bootstrap_checkpoint, log / "bootstrap.checkpoint")
    directory = base64.urlsafe_b64encode(bytes([1]) + uuid.uuid4().bytes[1:]).decode().rstrip("=")
    facts = {"version": 1, "cluster.id": _CLUSTER_ID, "node.id": number + 1, "directory.id": directory}
    (log / "meta.properties").write_text("".join(f"{name}={value}\n" for name, value in facts.items()))
