"""Faust's `agent.test_context()`: one agent of an app, run by the real engine on a Kafka in memory.

    async with order.test_context() as agent:
        event = await agent.put(Order(...))
        assert agent.results[event.message.offset] == ...

The agent runs in the caller's event loop. It reads its own topic, and its tables, replies and repartition topics are
those of a worker; other agents, timers and tasks of the app do not run. Each context begins with empty topics and
tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from faust import current_event
from faust.types import Message
from typing_extensions import TypeVar

from ..topics import clock
from ..topics.errors import Usage
from .agent import Agent
from .event import Event
from .one_agent_worker import OneAgentWorker
from .topic import header_list

if TYPE_CHECKING:
    from faust.types.agents import ActorRefT

    from ..topics.output import Output
    from .agent import ReplyTo
    from .app import App
    from .topic import HeadersGiven, Topic

__all__ = ["AgentTestWrapper"]

V = TypeVar("V", default=Any)
R = TypeVar("R", default=Any)

_LOOK_S = 0.001


class AgentTestWrapper(Agent[V, R]):
    """The agent of a test context, which is used with `async with`. It is an agent of its own: `ask`, `cast` and `send`
    work, too.

    Args:
        tested: the agent that `@app.agent` has made.
        topic: the topic that it reads.
        on_error: called with this object and the error when the agent raises.

    Attributes:
        results: offset of a record in the order of `put` -> what the agent has yielded for it, the last value if it has
            yielded several times. For an agent that does not yield, the value that it has processed.
        new_value_processed: is notified for each result.
        original_channel: the topic that the agent reads.
        sent_offset: number of records that were put.
        processed_offset: number of records that are processed.
    """

    def __init__(
        self,
        tested: Agent[V, R],
        topic: Topic[Any, V],
        on_error: Callable[[Any, BaseException], Awaitable[object]] | None = None,
        **options: Any,
    ) -> None:
        given: dict[str, Any] = {**tested.info(), "use_reply_headers": tested.use_reply_headers, **options}
        for name in ("app", "channel", "on_error", "on_failure", "retry"):
            given.pop(name, None)
        self._on_test_error = on_error
        self.results: dict[int, Any] = {}
        self.new_value_processed = asyncio.Condition()
        self.original_channel = topic
        self.sent_offset = self.processed_offset = 0
        self._numbers: dict[tuple[int, int], int] = {}  # partition and offset in the topic -> offset here
        self._unprocessed: dict[int, V] = {}
        self._error: Exception | None = None  # what the agent has raised and no `put` has
        self._failed: set[int | None] = set()
        self._reported = False
        self._yields = False
        self._worker = OneAgentWorker(cast("App", tested.app))
        app = self._worker.app
        super().__init__(app=app, channel=cast(Any, topic).clone(app=app), **given)
        self.on_failure, self.retry, self.timers = tested.on_failure, tested.retry, tested.timers
        app.agents[self.name] = self

    async def __aenter__(self) -> Self:
        """Start a worker with this agent alone.

        Raises:
            Usage: another test context of the app is open, or a worker runs the app.
            AnabranchError: what a worker raises that cannot start.
        """
        await self._worker.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> None:
        """Stop the worker.

        Raises:
            AnabranchError: the worker has ended with an error that no `put` has raised.
        """
        await self._worker.stop()
        if self._worker.error is not None and exc_val is None and not self._reported:
            raise self._worker.error

    # Putting records ------------------------------------------------------------------------------------------------

    async def put(
        self,
        value: V | bytes | None = None,
        key: Any = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersGiven | None = None,
        key_serializer: Any = None,
        value_serializer: Any = None,
        *,
        reply_to: ReplyTo | None = None,
        correlation_id: str | None = None,
        wait: bool = True,
    ) -> Event[V]:
        """Send a record to the agent's topic and wait until it is processed and committed.

        The agent gets what a worker would read from Kafka: the value is encoded and decoded as the topic declares. A
        record that the agent holds back for others (`take` without `within`) counts as processed.

        Args:
            partition: default: 0.
            timestamp: seconds since 1970; default: now.
            reply_to, correlation_id: as for `Agent.ask`.
            wait: return when the record is sent.

        Returns:
            The record; its `message.offset` is its key in `results`.

        Raises:
            Exception: what the agent has raised. The record is a dead letter then, or what the failure policy says.
            Usage: the test context is not open, or there is no such partition.
        """
        self._worker.check_open()
        given: Any = headers
        if reply_to:
            value, given = cast(Any, self._create_req(key, value, reply_to, correlation_id, headers))
        topic = self.original_channel
        output = topic.output(
            topic.encode_key(key, key_serializer),
            topic.encode_value(value, value_serializer),
            clock.now_ms() if timestamp is None else round(timestamp * 1000),
            partition=partition or 0,
            headers=header_list(given),
        )
        number, self.sent_offset = self.sent_offset, self.sent_offset + 1
        self._numbers[output.partition, self._worker.append(output)] = number
        event, error = _event(self._worker.app, topic, output, number)
        self._unprocessed[number] = event.value
        if error is not None:
            self._error = self._error or error
            self._failed.add(number)
        if wait:
            await self._settled()
        return event

    async def throw(self, exc: BaseException) -> None:
        """Raise an exception in the agent, where it waits for its next record.

        The next `put` raises it, too, unless the agent catches it.

        Raises:
            Usage: the test context is not open.
        """
        self._worker.check_open()
        await self._settled()
        for actor in list(self._actors):
            waiting: asyncio.Future[None] | None = cast(Any, actor.stream.get_active_stream()).wakeup
            if waiting is not None and not waiting.done():
                waiting.set_exception(exc)
        await asyncio.sleep(0)

    async def _prepare_actor(self, aref: ActorRefT, beacon: Any) -> ActorRefT:
        self._yields = not isinstance(aref, Awaitable)
        return await super()._prepare_actor(aref, beacon)

    async def _awaited(self, actor: Awaitable[object]) -> None:
        try:
            await super()._awaited(actor)
        except Exception as exc:
            await self._note_error(exc)
            raise

    async def _slurp(self, res: Any, it: AsyncIterator[object]) -> None:
        try:
            await super()._slurp(res, it)
        except Exception as exc:
            await self._note_error(exc)
            raise

    async def _delegate_to_sinks(self, value: object) -> None:
        await super()._delegate_to_sinks(value)
        number = _current_number(self, self._numbers)
        if number is None:
            if (event := current_event()) is not None and event.message.topic in self.original_channel.topics:
                return  # it was not put, but sent, as by `ask`
            # A repartition topic keeps the order.
            number, self.processed_offset = self.processed_offset, self.processed_offset + 1
        grouped = any(cast(Any, actor.stream.get_active_stream()).grouped for actor in self._actors)
        for each in range(self.processed_offset, number) if grouped else ():
            self.results.setdefault(each, value)
        await _note_result(self, number, value)

    async def _note_error(self, error: Exception) -> None:
        self._error = self._error or error
        self._failed.add(_current_number(self, self._numbers))
        await _tell_error(self, error, self._on_test_error)

    async def _settled(self) -> None:
        """Wait until the agent has processed, and the engine committed, everything that was put.

        Raises:
            Exception: what the agent has raised.
        """
        while not self._worker.settled:
            if self._worker.ended:
                self._reported = True
                raise self._error or self._worker.error or Usage(f"agent {self.name}: its worker was stopped")
            await asyncio.sleep(_LOOK_S)
        held = self._worker.held_back(self.original_channel.get_topic_name())
        self.processed_offset = min((self._numbers[at] for at in held if at in self._numbers), default=self.sent_offset)
        for number in [number for number in self._unprocessed if number < self.processed_offset]:
            value = self._unprocessed.pop(number)
            if not self._yields and number not in self._failed:
                await _note_result(self, number, value)
        error, self._error = self._error, None
        if error is not None:
            raise error


def _current_number(wrapper: AgentTestWrapper, numbers: dict[tuple[int, int], int]) -> int | None:
    """Return the number under which the current record was put; None if it was not put."""
    event = current_event()
    if event is None or event.message.topic not in wrapper.original_channel.topics:
        return None
    return numbers.get((event.message.partition, event.message.offset))


async def _note_result(wrapper: AgentTestWrapper, number: int, value: object) -> None:
    async with wrapper.new_value_processed:
        wrapper.results[number] = value
        wrapper.new_value_processed.notify_all()


async def _tell_error(wrapper: AgentTestWrapper, error: Exception, report: Callable[..., Any] | None) -> None:
    if report is not None:
        await report(wrapper, error)
    async with wrapper.new_value_processed:
        wrapper.new_value_processed.notify_all()


def _event(app: App, topic: Topic[Any, V], output: Output, number: int) -> tuple[Event[V], Exception | None]:
    """Return a record as an agent gets it, and the error if it cannot be decoded.

    Args:
        number: the offset that the event shows.
    """
    key, value = output.key, output.value
    headers: Any = dict(output.headers or ())
    at: Any = {"topic": output.topic, "partition": output.partition, "offset": number}
    time_s = (output.timestamp_ms or 0) / 1000
    raw = Message(**at, timestamp=time_s, timestamp_type=0, headers=headers, key=key, value=value, checksum=None)
    decoded, error = cast(V, value), None
    try:
        decoded = None if value is None else topic.decode_value(value)
    except Exception as exc:  # noqa: BLE001 (decoders may be the user's)
        error = exc
    return Event(app, None if key is None else topic.decode_key(key), decoded, headers, raw), error
