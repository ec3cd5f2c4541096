"""Replies to `ask`: one assigned consumer outside of any group, so that asking does not cause rebalances."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

from confluent_kafka import OFFSET_END, Consumer, TopicPartition
from faust.agents.models import ReqRepResponse
from faust.agents.replies import ReplyConsumer as FaustReplyConsumer
from faust.models import maybe_model

from ..topics import threads
from ..topics.cluster import Cluster
from ..topics.errors import described
from ..topics.threads import daemon_thread
from .runtime import runtime_of

__all__ = ["ReplyConsumer"]

logger = logging.getLogger(__name__)

_POLL_S = 0.005


class ReplyConsumer(FaustReplyConsumer):
    """Reads the reply topic from its end and fulfils pending promises."""

    mundane_level = "debug"

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._draining: list[asyncio.Task[None]] = []

    async def listen(self, topic_name: str) -> None:
        """Read all answers that are sent to the topic from now on. Await this before asking: an answer may arrive
        before the consumer knows the topic's end, and would be missed.
        """
        opening = self._fetchers.get(topic_name)
        if opening is None:  # concurrent callers wait for the same task
            opening = asyncio.get_running_loop().create_task(self._begin(topic_name))
            self._fetchers[topic_name] = opening
        try:
            await asyncio.shield(opening)
        except Exception:
            self._fetchers.pop(topic_name, None)  # the next call tries again
            raise

    _start_fetcher = listen

    async def _begin(self, topic_name: str) -> None:
        app = cast(Any, self.app)
        topic = self._reply_topic(topic_name)
        await topic.maybe_declare()
        consumer = await daemon_thread(self._open, runtime_of(app).cluster, topic.get_topic_name())
        self._draining.append(asyncio.get_running_loop().create_task(self._drain(consumer, topic)))

    @staticmethod
    def _open(cluster: Cluster, topic_name: str) -> Consumer:
        consumer = cluster.consumer(group_id="anabranch-replies", fetch_wait_max_ms=10)
        end = consumer.get_watermark_offsets(TopicPartition(topic_name, 0), timeout=10)
        consumer.assign([TopicPartition(topic_name, 0, end[1] if end else OFFSET_END)])
        return consumer

    async def _drain(self, consumer: Any, topic: Any) -> None:
        try:
            while not runtime_of(self.app).stop_requested.is_set():
                messages = consumer.consume(100, 0)
                for message in messages:
                    if message.error() is not None:
                        logger.warning("replies: %s", message.error().str())
                        continue
                    try:
                        reply: ReqRepResponse = topic.decode_value(message.value())
                        known = self._waiting.pop(reply.correlation_id, ())
                    except Exception as exc:  # noqa: BLE001 (the topic may hold anything)
                        at = f"{message.topic()}[{message.partition()}]@{message.offset()}"
                        logger.warning("replies: %s is not an answer: %s", at, described(exc))
                        continue
                    # A second answer to a question is ignored: agents may yield twice, and questions be processed
                    # twice.
                    for promise in list(known):
                        promise.fulfill(reply.correlation_id, maybe_model(reply.value))
                if not messages:
                    await threads.idle(_POLL_S)
        finally:
            consumer.close()
