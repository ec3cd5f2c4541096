"""Detection of Kafka clients that hang.

librdkafka forgets every broker that a metadata answer does not name. A cluster of one broker names none while that
broker shuts down, starts, or is late with its heartbeats; then some clients, and their coordinators, have no broker
left to ask and wait for ever (confluentinc/librdkafka#5511, #5456; seen with 2.16.0). Only a new client helps. A caller
that has waited longer than `HUNG_S` therefore asks with a new client whether the cluster answers: if it does, the old
client hangs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from confluent_kafka import KafkaException

from . import threads
from .cluster import Cluster
from .errors import Hung

__all__ = ["HUNG_S", "answers", "leave_behind", "unless_hung"]

logger = logging.getLogger(__name__)

HUNG_S = 15.0
_ASK_S = 3.0


def answers(cluster: Cluster) -> bool:
    """Return whether a new client reaches a broker (blocking, a few seconds at most)."""
    quiet = cluster.with_options({"log_level": "0"})
    try:
        return bool(quiet.admin().list_topics(timeout=_ASK_S).brokers)
    except KafkaException:
        return False


def unless_hung(within_s: float, call: Callable[..., object], *args: object) -> None:
    """Make a blocking call that may hang. A call that does not return in time is left to a daemon thread.

    Raises:
        Hung: it did not return in time.
    """
    try:
        threads.call_within(within_s, call, *args)
    except TimeoutError:
        raise Hung(f"the Kafka client has hung for {within_s:.0f} s") from None


def leave_behind(close: Callable[[], object], within_s: float = 0.0) -> bool:
    """Close a client that may hang; return whether it was closed in time."""
    try:
        unless_hung(within_s, close)
    except Hung:
        return False
    except (KafkaException, RuntimeError) as exc:  # it is closed already
        logger.debug("closing a client: %s", exc)
    return True
