"""Whether a Kafka client is finished without saying so.

librdkafka forgets every broker that an answer about the cluster does not name. A cluster of one broker names none while
that broker shuts down, starts, or is late with its heartbeats; then some clients, and their coordinators, have nobody
left to ask and wait for ever (confluentinc/librdkafka#5511, #5456; seen with 2.16.0). Only a new client helps. So
whoever waits for an answer longer than `HUNG_S` asks with a new client whether the cluster is there: if it is, the old
one is finished.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from confluent_kafka import KafkaException

from .cluster import Cluster
from .errors import Hung

__all__ = ["HUNG_S", "answers", "leave_behind", "unless_hung"]

logger = logging.getLogger(__name__)

HUNG_S = 15.0
_ASK_S = 3.0


def answers(cluster: Cluster) -> bool:
    """Whether a new client finds a broker (blocking, a few seconds at most)."""
    quiet = cluster.with_options({"log_level": "0"})
    try:
        return bool(quiet.admin().list_topics(timeout=_ASK_S).brokers)
    except KafkaException:
        return False


def unless_hung(within_s: float, call: Callable[..., object], *args: object) -> None:
    """Make a blocking call that may hang. What does not come back in time stays with a thread that nobody waits for,
    not even the end of the process.

    Raises:
        Hung: it did not come back.
    """
    outcome: SimpleQueue[BaseException | None] = SimpleQueue()

    def make() -> None:
        try:
            call(*args)
            outcome.put(None)
        except BaseException as exc:  # noqa: BLE001 (raised again by who waits)
            outcome.put(exc)

    threading.Thread(target=make, name="anabranch-unless-hung", daemon=True).start()
    try:
        error = outcome.get(timeout=within_s)
    except Empty:
        raise Hung(f"the Kafka client has hung for {within_s:.0f} s") from None
    if error is not None:
        raise error


def leave_behind(close: Callable[[], object], within_s: float = 0.0) -> bool:
    """Close a client that may hang; whether it was closed in time."""
    try:
        unless_hung(within_s, close)
    except Hung:
        return False
    except (KafkaException, RuntimeError) as exc:  # there is nothing to close any more
        logger.debug("closing a client: %s", exc)
    return True
