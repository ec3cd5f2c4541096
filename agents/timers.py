"""Timers of agents in event time: `app.at(…)` sets one, `@agent.on_timer(…)` names the function that it calls.

    @app.agent(orders)
    async def watch(stream):
        async for order in stream:
            open_orders[order.id] = order
            app.at(order.at + timedelta(minutes=15), key=order.id, name="unpaid")

    @watch.on_timer("unpaid")
    async def unpaid(timer):
        await alerts.send(key=timer.key, value=open_orders.pop(timer.key, None))

Timers are rows of a table of the agent (`tables/timer_table.py`), and fire between two records (`stream_clock.py`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from ..topics.dead_letter import read_retry
from ..topics.errors import BadRecord, Usage
from ..topics.headers import headers_of
from ..topics.keys import as_key
from ..topics.spelling import did_you_mean
from ..topics.topic_partition import TopicPartition
from .engine.firing import FiringRecord
from .engine.protocols import topics_read
from .engine.runner import acting_runner
from .event_time.channel import END_MS, NEVER_MS, watermark
from .event_time.event_time import LIKE_SECONDS, moment, time_ms
from .runtime import runtime_of
from .stream_clock import timing_of
from .tables.store_directory import store_scheme
from .tables.timer_table import OpenTimers, SourceTimes, StoredTimer, TimerTable, open_timers, source_times_of

if TYPE_CHECKING:
    from ..topics.message import Message
    from .agent import Agent
    from .app import App
    from .stream import Stream

__all__ = ["Handler", "Timer", "Timers", "cancel_timer", "on_timer", "set_timer"]


@dataclass(frozen=True)
class Timer:
    """A timer that fires.

    Attributes:
        key: the key that it was set for.
        name: its name.
        due_ms: when it was due, in milliseconds of event time.
        payload: what was given with it.
    """

    key: Any
    name: str
    due_ms: int
    payload: Any = None

    @property
    def due(self) -> datetime:
        """When it was due, in UTC."""
        return moment(self.due_ms)


KIND = "timers"


class _Letter(msgspec.Struct):
    """The value of the dead letter of a timer."""

    timer: str
    key: Any
    due: int
    payload: Any


_read_letter = msgspec.json.Decoder(_Letter).decode

Handler = Callable[[Timer], Awaitable[object]]

H = TypeVar("H", bound=Handler)


class Timers:
    """The timers of an agent.

    Raises:
        Usage: the agent cannot have timers.

    Attributes:
        handlers: name -> the function that a timer of this name calls.
        table: the timers that are set.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent, self.handlers = agent, dict[str, Handler]()
        app = cast(Any, agent.app)
        runtime, topics = runtime_of(app), topics_read(agent)
        if not topics:
            raise Usage(
                f"agent {agent.name} reads a channel in memory, and has timers",
                hint="timers go by the event time of a topic: give them to an agent of it",
            )
        if agent.concurrency > 1:
            raise Usage(
                f"agent {agent.name} has concurrency={agent.concurrency}, and timers",
                hint="the records of a partition must come one after the other: leave out concurrency",
            )
        name = f"{agent.name}-timers"
        self.table = TimerTable(
            name,
            help=f"timers of agent {agent.name}",
            store=store_scheme(app.conf.store, name),
            step=lambda: runtime.agent_step,
        )
        app.add_table(self.table)
        runtime.add_waiting(self.waiting_in)

    def handler(self, name: str, function: Handler) -> None:
        """Add the function for the timers of a name.

        Raises:
            Usage: there is one already, or it is not an async function.
        """
        if name in self.handlers:
            raise Usage(f"agent {self.agent.name} has two functions for timers called {name!r}")
        if not inspect.iscoroutinefunction(function):
            raise Usage(
                f"on_timer({name!r}) of agent {self.agent.name}: not an async function",
                hint="async def unpaid(timer): …",
            )
        self.handlers[name] = function

    def waiting_in(self, stream: Stream) -> WaitingTimers | None:
        """Return the timers that wait for event time in a stream; None if it is not the agent's."""
        return WaitingTimers(self, stream) if stream.name == self.agent.name else None


class WaitingTimers:
    """The timers of an agent that wait for event time in one of its streams; a `stream_clock.Waiting`."""

    def __init__(self, timers: Timers, stream: Stream) -> None:
        self._timers, self._stream = timers, stream
        self._grace_ms = timing_of(stream).given_grace_ms or 0

    @property
    def next_ms(self) -> int | None:
        first = open_timers(self._timers.table).queue.first
        return None if first is None else first[0] + self._grace_ms

    @property
    def last_ms(self) -> int | None:
        last_ms = open_timers(self._timers.table).queue.last_ms
        return None if last_ms is None else last_ms + self._grace_ms

    def sources(self, partition: int) -> SourceTimes:
        return source_times_of(self._timers.table, partition)

    def first(self, time_ms: int, at: TopicPartition, offset: int, *, anywhere: bool) -> FiringTimer | None:
        first = open_timers(self._timers.table).first
        if first is None or first.due_ms + self._grace_ms > time_ms:
            return None
        return FiringTimer(self._timers, self._stream, first, at, offset, anywhere=anywhere)

    def again(self, message: Message, at: TopicPartition) -> FiringTimer | None:
        agent = self._timers.agent.name
        if message.topic() != self._stream.context.retries.of_fired(agent, KIND):
            return None
        try:
            letter = _read_letter(message.value() or b"")
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise BadRecord(f"the record of a timer cannot be read: {exc}") from exc
        timer = StoredTimer(letter.due, as_key(letter.key), letter.timer, letter.payload)
        _, origin = read_retry(headers_of(message))
        again = message.offset() or 0
        return FiringTimer(self._timers, self._stream, timer, at, again if origin is None else origin.offset, again)

    def end(self, time_ms: int) -> None:
        latest_ms = NEVER_MS if time_ms == END_MS else watermark(time_ms, self._grace_ms)
        open_timers(self._timers.table).end_at(latest_ms)


class FiringTimer:
    """A timer that is due; a `stream_clock.Firing`.

    Args:
        again: offset of the record in the retry topic that lets it fire again; None: it is in the table.
        anywhere: see `FiringRecord`.
    """

    reason = "timer"

    def __init__(
        self,
        timers: Timers,
        stream: Stream,
        timer: StoredTimer,
        at: TopicPartition,
        offset: int,
        again: int | None = None,
        anywhere: bool = False,
    ) -> None:
        self._timers, self._stream, self._timer, self._again = timers, stream, timer, again
        identity = (KIND, timer.name, timer.kept, timer.due_ms, again)
        self.record = FiringRecord(at, offset, identity, timer.due_ms, self._letter, kind=KIND, anywhere=anywhere)

    def _letter(self) -> tuple[bytes | None, bytes]:
        """Return key and value of the dead letter."""
        timer = self._timer
        letter = _Letter(timer.name, timer.key, timer.due_ms, timer.payload)
        return _key_bytes(self._stream, timer.key), msgspec.json.encode(letter)

    def remove(self) -> None:
        if self._again is None:
            open_timers(self._timers.table).remove(self._timer)

    async def run(self) -> None:
        key, name, due_ms, payload = self._timer.key, self._timer.name, self._timer.due_ms, self._timer.payload
        handler = self._timers.handlers.get(name)
        if handler is None:
            agent = self._timers.agent.name
            raise BadRecord(
                f"timer {name} is due, and agent {agent} has no function for it",
                hint=f'@{agent.rpartition(".")[2]}.on_timer("{name}")',
            )
        # The handler may change the payload, which is in the table, or in a dead letter to come.
        own = msgspec.json.decode(msgspec.json.encode(payload)) if isinstance(payload, dict | list) else payload
        await handler(Timer(key, name, due_ms, own))


def _key_bytes(stream: Stream, key: object) -> bytes | None:
    """Return a key as records of the topic have it, else as JSON."""
    try:
        return stream.topic.encode_key(key)
    except (BadRecord, TypeError, ValueError, AttributeError):
        return msgspec.json.encode(key)


def on_timer(agent: Agent, name: str) -> Callable[[H], H]:
    """Make a decorator for the async function that the agent's timers of this name call; see `App.at`.

    The function takes a `Timer`, and works as the agent itself between two records: tables show the partition of the
    timer's key, what it sends has the time at which the timer was due, and all of it is committed with the note that
    the timer has fired. If it raises, it is rolled back, and the timer goes to the agent's failure policy.

    Raises:
        Usage: the agent reads no topic, or has a concurrency; or it has such a function already.
    """

    def added(function: H) -> H:
        if agent.timers is None:
            agent.timers = Timers(agent)
        agent.timers.handler(name, function)
        return function

    return added


def set_timer(app: App, when: datetime | int | str, *, key: object, name: str, payload: object = None) -> None:
    """Let the running agent's function for timers of this name be called at a time; see `Agent.on_timer`.

    It is event time: the timer fires when the watermark of the record's partition reaches it, between two records; if
    it has, right behind the record at hand. A timer of the same key and name is replaced.

    Args:
        when: a datetime with a zone, milliseconds since 1970, or such a datetime as ISO 8601 text.
        key: belongs to the partition of the record, as keys of tables do.
        payload: JSON that the function gets.

    Raises:
        Usage: no agent runs, or it has no function for such timers.
        BadRecord: it is no such time; or key or payload cannot be kept.
    """
    opened = _at_hand(app, "app.at", name)
    try:
        due_ms = time_ms(when)
    except ValueError as exc:
        hint = "milliseconds since 1970, a datetime with a zone, or such a datetime as ISO 8601 text"
        if isinstance(when, int | float) and math.isfinite(when) and int(when) in LIKE_SECONDS:
            # `time_ms` speaks of the option that a topic has.
            raise BadRecord(
                f"timer {name}: {when} is early in 1970 if it is in milliseconds: is it in seconds?", hint=hint
            ) from None
        raise BadRecord(f"timer {name}: {exc}", hint=hint) from None
    opened.set(key, name, due_ms, payload)


def cancel_timer(app: App, *, key: object, name: str) -> bool:
    """Remove a timer of the running agent, and return whether it was set.

    Raises:
        Usage: no agent runs, or it has no function for such timers.
    """
    return _at_hand(app, "app.cancel", name).cancel(key, name)


def _at_hand(app: App, call: str, name: str) -> OpenTimers:
    """Return the timers of the agent that runs, in the partition of its record.

    Args:
        call: what the program has called, for the error.
        name: of the timers that are meant.

    Raises:
        Usage: no agent runs, or it has no function for such timers.
    """
    runtime = runtime_of(app)
    runner = None
    if runtime.agent_step.running:
        runner = runtime.context.current or acting_runner()
    stream = None if runner is None else runner.stream
    if stream is None:
        raise Usage(f"{call} outside of an agent", hint="timers belong to the record that an agent processes")
    timers = cast("Timers | None", getattr(runtime.agents.get(stream.name), "timers", None))
    function = f'@{stream.name.rpartition(".")[2]}.on_timer("{name}")'
    if timers is None:
        raise Usage(f"{call} in agent {stream.name}, which has no function for timers", hint=function)
    if name not in timers.handlers:
        raise Usage(
            f"agent {stream.name} has no function for timers called {name!r}",
            hint=did_you_mean(name, timers.handlers, function),
        )
    return open_timers(timers.table)
