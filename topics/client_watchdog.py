"""Detection of Kafka clients that hang.

librdkafka forgets every broker that a metadata answer does not name. A cluster of one broker names none while that
broker shuts down, starts, or is late with its heartbeats; then some clients, and their coordinators, have no broker
left to send requests to, and wait for ever (confluentinc/librdkafka#5511, #5456; seen with 2.16.0). Only a new client
helps. A caller that has waited longer than `HUNG_S` therefore checks with a new client whether the cluster answers: if
it does, the old client hangs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException

from . import clock, threads
from .cluster import Cluster
from .errors import Hung, from_kafka, is_fatal, kafka_error, may_pass

__all__ = ["HUNG_S", "answers", "leave_behind", "unless_hung", "unless_ignored", "until_answered", "unusable"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

HUNG_S = 15.0
_ASK_S = 3.0
_RETRY_S = 0.05
_LOOK_S = 1.0

# A cluster that answers a new client answers a call within a second; on a busy machine it may take longer.
_PROMPT_S = 5.0


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


def unless_ignored(cluster: Cluster, within_s: float, doing: str, call: Callable[[], object]) -> None:
    """Make a blocking call that may hang after the cluster was away. A call that hangs is left to a daemon thread.

    It hangs if it has not returned within `within_s`, or although the cluster has answered for `_PROMPT_S`.

    Args:
        doing: the action, for the message.

    Raises:
        Hung: it hangs.
    """
    began_s, answered_s = clock.now_s(), 0.0

    def given_up() -> bool:
        nonlocal answered_s
        waited_s = clock.now_s() - began_s
        if waited_s < _PROMPT_S or waited_s > within_s:
            return waited_s > within_s
        if not answers(cluster):
            answered_s = 0.0
            return False
        answered_s = answered_s or clock.now_s()
        return clock.now_s() - answered_s >= _PROMPT_S

    try:
        threads.call_unless(given_up, _LOOK_S, call)
    except TimeoutError:
        raise Hung(f"{doing}: the Kafka client has no answer after {clock.now_s() - began_s:.0f} s") from None


def leave_behind(close: Callable[[], object], within_s: float = 0.0) -> bool:
    """Close a client that may hang; return whether it was closed in time."""
    try:
        unless_hung(within_s, close)
    except Hung:
        return False
    except (KafkaException, RuntimeError) as exc:  # it is closed already
        logger.debug("closing a client: %s", exc)
    return True


def unusable(doing: str, error: KafkaError) -> Hung:
    """Return the exception for a client that a fatal error has ended."""
    return Hung(f"{doing}: this client cannot be used any more ({error.str()})", fenced=True)


def until_answered(
    doing: str, call: Callable[[], T], cluster: Cluster, *, patience_s: float, hung_s: float | None = None
) -> T:
    """Repeat a call of a consumer while its errors may be temporary, and return its result (blocking).

    Args:
        doing: the action, for messages, such as "commit offsets".
        call: raises KafkaException if it fails; other exceptions are passed on.
        patience_s: how long the call is repeated.
        hung_s: the time without an answer after which the client counts as hung if the cluster answers; `HUNG_S` by
            default.

    Raises:
        Hung: the client is fenced or broken, or it gets no answer although the cluster answers. Only a new one helps.
        AnabranchError: the call failed with another error, or for longer than `patience_s`.
    """
    began_s = clock.now_s()
    while True:
        try:
            return call()
        except KafkaException as exc:
            error = kafka_error(exc)
            if is_fatal(error):
                # A broker that restarts may fence a member that still owns its identity.
                raise unusable(doing, error) from exc
            waited_s = clock.now_s() - began_s
            if not may_pass(error) or waited_s > patience_s:
                raise from_kafka(exc, doing, servers=cluster.bootstrap_servers) from exc
            if waited_s > (HUNG_S if hung_s is None else hung_s) and answers(cluster):
                raise Hung(f"{doing}: the Kafka client has no answer after {waited_s:.0f} s") from exc
            clock.sleep(_RETRY_S)
