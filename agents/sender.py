"""Sends records outside of any epoch: for clients, and for `ask`, whose reply is awaited before the commit.

At least once: a record that was sent is visible at once and stays, even if the agent that sent it is rolled back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaException
from faust.types import TP
from faust.types.tuples import RecordMetadata

from ..topics.cluster import Cluster
from ..topics.errors import AnabranchError, BadRecord, from_kafka, is_refusal, kafka_error
from ..topics.output import Output

__all__ = ["Sender"]

logger = logging.getLogger(__name__)

_POLL_S = 0.002


class Sender:
    """An idempotent producer that returns futures. It is created at the first send.

    Args:
        on_refused: called with each record that was not stored, and why.

    Attributes:
        outstanding: number of records whose delivery is not known yet.
        failed: number of records that were not delivered.
    """

    def __init__(self, cluster: Cluster, on_refused: Callable[[Output, AnabranchError], None] | None = None) -> None:
        self._cluster, self._on_refused = cluster, on_refused
        self._kafka: Any = None
        self.outstanding = self.failed = 0
        self._poller: asyncio.Task[None] | None = None

    async def send(self, output: Output) -> asyncio.Future[RecordMetadata]:
        """Queue a record; the future resolves when the broker has stored it."""
        if self._kafka is None:
            self._kafka = self._cluster.producer()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[RecordMetadata] = loop.create_future()

        def delivered(error: Any, message: Any) -> None:
            self.outstanding -= 1
            if future.done():
                return
            if error is not None:
                why = self._as_error(KafkaException(error), output)
                # Logged as well, because the future may never be awaited, as in a command that sends and ends.
                logger.error("not sent: %s", why)
                self.failed += 1
                if self._on_refused is not None:
                    self._on_refused(output, why)
                future.set_exception(why)
                return
            tp = TP(message.topic(), message.partition())
            future.set_result(
                RecordMetadata(tp.topic, tp.partition, tp, message.offset(), message.timestamp()[1] / 1000, 0)
            )

        more: dict[str, Any] = {"timestamp": output.timestamp_ms} if output.timestamp_ms else {}
        while True:
            try:
                self._kafka.produce(
                    output.topic,
                    output.value,
                    output.key,
                    output.partition,
                    headers=list(output.headers or ()),
                    on_delivery=delivered,
                    **more,
                )
                break
            except BufferError:
                self._kafka.poll(0)
                await asyncio.sleep(_POLL_S)
            except KafkaException as exc:
                raise self._as_error(exc, output) from exc
        self.outstanding += 1
        if self._poller is None or self._poller.done():
            self._poller = loop.create_task(self._poll())
        return future

    def _as_error(self, exc: KafkaException, output: Output) -> AnabranchError:
        error = kafka_error(exc)
        if is_refusal(error):
            return BadRecord(f"topic {output.topic} does not take the record: {error.str()}")
        return from_kafka(exc, f"send to {output.topic}", servers=self._cluster.bootstrap_servers)

    async def _poll(self) -> None:
        while self.outstanding:
            self._kafka.poll(0)
            await asyncio.sleep(_POLL_S)

    async def flush(self) -> None:
        """Wait until everything sent is delivered or has failed."""
        while self.outstanding:
            self._kafka.poll(0)
            await asyncio.sleep(_POLL_S)
