"""Replies to `ask`: one assigned consumer outside of any group, so that asking does not cause rebalances."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast
from weakref import WeakValueDictionary

from confluent_kafka import OFFSET_END, Consumer, TopicPartition
from faust.agents.models import ReqRepResponse
from faust.agents.replies import BarrierState, ReplyPromise
from faust.agents.replies import ReplyConsumer as FaustReplyConsumer
from faust.models import maybe_model

from ..topics import threads
from ..topics.cluster import Cluster
from ..topics.errors import BadRecord, described
from ..topics.headers import headers_of
from ..topics.producer import Headers
from ..topics.threads import daemon_thread
from .questions import CORRELATION, REFUSED
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
        self._promises: WeakValueDictionary[str, ReplyPromise] = WeakValueDictionary()

    def expect(self, promise: ReplyPromise) -> None:
        """Note a question that is about to be sent, so that `refuse` finds who asked it."""
        self._promises[promise.correlation_id] = promise

    async def add(self, correlation_id: str, promise: ReplyPromise) -> None:
        """Wait for the answer to a question."""
        asked = self._promises.get(correlation_id)
        if asked is not None and asked.done() and (error := asked.exception()) is not None:
            _fail(promise, error)
        await super().add(correlation_id, promise)

    def refuse_question(self, headers: Headers | None, error: BaseException) -> None:
        """Give the error to the asker of a question whose record a topic has refused; ignore other records."""
        correlation = dict(headers or ()).get(CORRELATION)
        if correlation:
            self._refuse(correlation.decode(errors="replace"), error)

    def _refuse(self, correlation_id: str, error: BaseException) -> None:
        asked = self._promises.get(correlation_id)
        for promise in {*self._waiting.pop(correlation_id, ()), *((asked,) if asked is not None else ())}:
            _fail(promise, error)

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
                    headers = dict(headers_of(message) or ())
                    if (why := headers.get(REFUSED)) is not None:
                        correlation = (headers.get(CORRELATION) or b"").decode(errors="replace")
                        self._refuse(correlation, BadRecord(why.decode(errors="replace")))
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
                    for promise in [promise for promise in known if not promise.done()]:
                        promise.fulfill(reply.correlation_id, maybe_model(reply.value))
                if not messages:
                    await threads.idle(_POLL_S)
        finally:
            consumer.close()


def _fail(promise: ReplyPromise, error: BaseException) -> None:
    if promise.done():
        return
    promise.set_exception(error)
    promise.exception()  # a promise that nobody awaits is not reported
    if isinstance(promise, BarrierState):
        promise._results.put_nowait(None)  # pyright: ignore[reportPrivateUsage] (wakes who iterates)
