"""Whether a Kafka client is finished without saying so.

librdkafka forgets every broker that an answer about the cluster does not name. A cluster of one broker names none while
that broker shuts down, starts, or is late with its heartbeats; then some clients, and their coordinators, have nobody
left to ask and wait for ever (confluentinc/librdkafka#5511, #5456; seen with 2.16.0). Only a new client helps. So
whoever waits for an answer longer than `HUNG_S` asks with a new client whether the cluster is there: if it is, the old
one is finished.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from .client import Cluster

__all__ = ["HUNG_S", "answers", "leave_behind"]

HUNG_S = 15.0
_ASK_S = 3.0


def answers(cluster: Cluster) -> bool:
    """Whether a new client finds a broker (blocking, a few seconds at most)."""
    quiet = Cluster(cluster.bootstrap_servers, {**cluster.options, "log_level": "0"})
    try:
        return bool(AdminClient(quiet.config()).list_topics(timeout=_ASK_S).brokers)
    except KafkaException:
        return False


def leave_behind(close: Callable[[], object], within_s: float = 0.0) -> bool:
    """Close a client that may hang; whether it was closed in time. What is not stays with a thread that nobody waits
    for, not even the end of the process."""
    closed = threading.Event()

    def end() -> None:
        try:
            close()
        finally:
            closed.set()

    threading.Thread(target=end, name="anabranch-close", daemon=True).start()
    return closed.wait(within_s)
