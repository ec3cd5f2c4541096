"""Kafka in a container, for tests. Needs `testcontainers` and a Docker engine."""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from ...topics import clock
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.errors import Stop, Usage

__all__ = ["broker_container"]

CLIENT_PORT = 9092
READY_S = 60.0
ENGINE_S = 2

# What a single node needs, in the form that the official image (and deploy/kafka-image.py) takes. The broker also calls
# itself, for coordinators and for transactions: at INTERNAL, because the address for the host leads nowhere in there.
CONTAINER = {
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_NODE_ID": "1",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9094",
    "KAFKA_LISTENERS": f"CLIENT://:{CLIENT_PORT},INTERNAL://localhost:9093,CONTROLLER://localhost:9094",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "KAFKA_INTER_BROKER_LISTENER_NAME": "INTERNAL",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS": "4",
    "KAFKA_TRANSACTION_ABORT_TIMED_OUT_TRANSACTION_CLEANUP_INTERVAL_MS": "1000",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
    "KAFKA_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS": "1000",
    "KAFKA_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS": "100",
    "KAFKA_GROUP_CONSUMER_SESSION_TIMEOUT_MS": "10000",
    "KAFKA_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS": "500",
    "KAFKA_LOG_RETENTION_MS": "-1",
}


@contextmanager
def broker_container(image: str) -> Generator[Cluster]:
    """Run Kafka in a container, reachable on loopback, and return its cluster.

    Args:
        image: `apache/kafka:VERSION`, or one that takes the same variables.

    Raises:
        Usage: testcontainers is not installed.
        RuntimeError: the container does not get ready.
    """
    try:
        docker: Any = import_module("docker")
        testcontainers_config: Any = import_module("testcontainers.core.config").testcontainers_config
        DockerContainer: Any = import_module("testcontainers.core.container").DockerContainer  # noqa: N806 (a class)
    except ImportError as exc:
        raise Usage("Kafka in a container needs the package testcontainers", hint="pip install testcontainers") from exc

    engine = docker.from_env(timeout=ENGINE_S)
    # Ryuk removes containers of a killed session. Where its image is not there, we go without rather than fail.
    present: set[str] = {tag for found in engine.images.list() for tag in found.tags}
    testcontainers_config.ryuk_disabled = testcontainers_config.ryuk_image not in present
    engine.close()
    # The broker tells clients where to find it, so the port has to be known before it starts.
    with socket.socket() as look:
        look.bind(("127.0.0.1", 0))
        port = look.getsockname()[1]
    # KafkaContainer of testcontainers writes a start script for another vendor's image.
    kafka = DockerContainer(image)
    kafka.ports[CLIENT_PORT] = ("127.0.0.1", port)  # Docker's form of "on loopback only"
    for name, value in CONTAINER.items():
        kafka.with_env(name, value)
    kafka.with_env("KAFKA_ADVERTISED_LISTENERS", f"CLIENT://127.0.0.1:{port},INTERNAL://localhost:9093")
    with kafka:
        cluster = Cluster(f"127.0.0.1:{port}", {"log_level": "0"})
        _await_container(kafka, cluster)
        yield Cluster(cluster.bootstrap_servers)


def _await_container(kafka: Any, cluster: Cluster) -> None:
    admin, deadline_s = Admin(cluster), clock.now_s() + READY_S
    while True:
        try:
            admin.partitions(timeout_s=1.0)
            return
        except Stop as exc:
            wrapped = kafka.get_wrapped_container()
            wrapped.reload()
            if wrapped.status not in ("created", "running") or clock.now_s() > deadline_s:
                log = wrapped.logs(tail=30).decode(errors="replace")
                raise RuntimeError(f"the container is {wrapped.status} and no broker answers:\n{log}") from exc
