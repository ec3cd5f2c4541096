"""Agents: Faust's agents with a failure policy, driven by the engine's runners."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypedDict, Unpack, cast, overload

from faust import App as FaustApp
from faust import current_event
from faust.agents import Agent as FaustAgent
from faust.agents.agent import _current_agent  # pyright: ignore[reportPrivateUsage]
from faust.agents.replies import BarrierState, ReplyPromise
from faust.exceptions import ImproperlyConfigured
from faust.types import AgentT, ChannelT
from faust.types.core import merge_headers
from mode.utils.aiter import aiter
from typing_extensions import TypeVar

from ..topics.errors import Usage
from ..topics.identifiers import random_uuid
from ..topics.serde import check_declared
from ..topics.spelling import check_options
from .declarations import Failure
from .engine.runner import Runner, acting_runner, this_runner
from .failure_policy import policy
from .keyed import Keyed, answer_of, send_keyed
from .replies import ReplyConsumer
from .runtime import runtime_of
from .timers import Timers, on_timer

if TYPE_CHECKING:
    import faust
    from faust.types import TP, CodecT
    from faust.types.agents import ActorRefT
    from faust.types.tuples import RecordMetadata
    from mode.utils.trees import NodeT

    from .agent_test_wrapper import AgentTestWrapper
    from .app import App
    from .stream import Stream
    from .topic import HeadersGiven, Topic

__all__ = ["Agent", "declare_agent"]

V = TypeVar("V", default=Any)
R = TypeVar("R", default=Any)
Json = TypeVar("Json", bound="str | int | float | list[Any] | dict[str, Any] | faust.Record | None")

ReplyTo: TypeAlias = "AgentT[object] | ChannelT[object] | str"


class SendOptions(TypedDict, total=False):
    """Options of `Agent.cast`; as `Topic.send`."""

    key: object
    partition: int | None
    timestamp: float | None
    headers: HeadersGiven | None


class AskOptions(SendOptions, total=False):
    """Options of `Agent.ask`.

    Attributes:
        reply_to: the topic that the answer goes to; default: the app's reply topic.
        correlation_id: identifies the answer; default: a new UUID.
    """

    reply_to: ReplyTo | None
    correlation_id: str | None


class AgentSendOptions(AskOptions, total=False):
    """Options of `Agent.send`."""

    key_serializer: CodecT | str | None
    value_serializer: CodecT | str | None
    callback: Callable[..., object] | None
    force: bool


_ANSWER_NOW = "anabranch-answer-now"


class Agent(FaustAgent, Generic[V, R]):
    """An agent function and its instances; `@app.agent(…)` makes it. `V` is the type of the values that it reads, `R`
    of those that it yields.

    Args:
        on_failure: what happens to a record that makes the agent raise, or that cannot be decoded. `dead_letter` (the
            default) sends it to `<topic>.dlq` with the reason, `skip` logs and counts it, `fail` stops the worker.
            `Retry(…)`, or `retry` for its defaults, tries it again before one of these. What the agent did with the
            record is rolled back.

    Values of a channel in memory are not records, and cannot be rolled back, retried or kept: `fail` stops the worker,
    every other policy logs the error and continues with the next value.

    Attributes:
        on_failure, retry: the name of the policy, and what precedes it.
    """

    mundane_level = "debug"
    timers: Timers | None = None  # once it has a function for them
    on_timer = on_timer

    def __init__(self, fun: Callable[..., object], *, on_failure: Failure = "dead_letter", **kwargs: Any) -> None:
        self.on_failure, self.retry = policy(on_failure)
        _check_async(fun)
        _check_options(kwargs)
        _check_types(kwargs)
        kwargs["sink"] = _sinks(kwargs.get("sink") or ())
        super().__init__(cast(Any, fun), **kwargs)

    def info(self) -> dict[str, object]:
        """Return Faust's description of the agent, with the policy."""
        return {**super().info(), "on_failure": self.on_failure, "retry": self.retry}

    def stream(
        self, channel: ChannelT[object] | None = None, active_partitions: set[TP] | None = None, **kwargs: Any
    ) -> Stream[V]:
        """Return a stream of the channel, which knows how many streams share its records."""
        stream = cast("Stream[V]", super().stream(channel=channel, active_partitions=active_partitions, **kwargs))
        if hasattr(stream.channel, "expected_streams"):
            stream.topic.expected_streams = self.concurrency
        return stream

    def test_context(
        self,
        channel: ChannelT[object] | None = None,
        supervisor_strategy: Any = None,
        on_error: Callable[[Any, BaseException], Awaitable[object]] | None = None,
        **kwargs: Any,
    ) -> AgentTestWrapper[V, R]:
        """Return the agent for a test: `async with order.test_context() as agent: await agent.put(…)`.

        The agent runs in the test's event loop, on a Kafka in memory; see `AgentTestWrapper`. An agent of a channel in
        memory runs as in Faust, without tables.

        Args:
            channel: the topic that the agent reads; default: its own.
            supervisor_strategy: of Faust; agents are restarted as in a worker.
            on_error: called with the agent and the error when the agent raises.
            kwargs: options of the agent that differ in the test, such as `concurrency`.
        """
        read = self.channel if channel is None else channel
        if not hasattr(read, "decode_value"):
            return cast(Any, super().test_context(channel, supervisor_strategy, cast(Any, on_error), **kwargs))
        from .agent_test_wrapper import AgentTestWrapper  # for tests only

        return AgentTestWrapper(self, cast("Topic[Any, V]", read), on_error, **kwargs)

    if TYPE_CHECKING:  # Faust's methods, with our types

        async def cast(self, value: V | None = None, **options: Unpack[SendOptions]) -> None:
            """Send a value to the agent, and expect no answer."""
            ...

        async def send(
            self, *, value: V | bytes | None = None, **options: Unpack[AgentSendOptions]
        ) -> Awaitable[RecordMetadata]:
            """Send a value to the agent's topic; see `Topic.send`."""
            ...

        def map(
            self, values: AsyncIterable[V] | Iterable[V], key: object = None, reply_to: ReplyTo | None = None
        ) -> AsyncIterator[R]:
            """Ask for each value; iterate over the answers as they arrive."""
            ...

        async def join(
            self, values: AsyncIterable[V] | Iterable[V], key: object = None, reply_to: ReplyTo | None = None
        ) -> list[R]:
            """Ask for each value; return the answers in the order of the values."""
            ...

    # Asking. An agent that asks is in the middle of a record, so the commit waits for it, and an answer that waited for
    # the commit would never arrive. So question and answer are sent outside of the epoch, at least once. All others
    # that ask get an answer that is committed.

    @overload
    async def ask(self: Agent[V, Json], value: V | None = None, **options: Unpack[AskOptions]) -> Json: ...
    @overload
    async def ask(self, value: V | None = None, **options: Unpack[AskOptions]) -> Any: ...
    async def ask(self, value: V | None = None, *, reply_to: ReplyTo | None = None, **options: Any) -> Any:
        """Send a value and wait for the answer, which the agent yields.

        Raises:
            BadRecord: the topic refuses the question, or the agent failed at it.

        An answer is JSON: a struct arrives as a dict. If an agent asks, the answer may be computed twice, from state
        that is not committed yet.
        """
        reply_to = reply_to or self.app.conf.reply_to
        context, asking = runtime_of(self.app).context, int(acting_runner() is not None)
        context.asking += asking
        try:
            await self._listen(reply_to)
            return await super().ask(value, reply_to=reply_to, **options)
        finally:
            context.asking -= asking

    async def _barrier_send(
        self, barrier: BarrierState, items: Iterable[object], reply_to: ReplyTo
    ) -> AsyncIterator[str]:
        await self._listen(reply_to)
        barrier.iterate = _to_the_end(barrier)
        async for sent in super()._barrier_send(barrier, cast(Any, items), reply_to):
            yield sent

    async def _listen(self, reply_to: ReplyTo) -> None:
        """Read the reply topic before the request is sent: Faust begins afterwards, and a reply may arrive earlier."""
        await cast(Any, self.app)._reply_consumer.listen(self._get_strtopic(reply_to))

    async def ask_nowait(
        self, value: V | None = None, *, force: bool = False, **options: Unpack[AskOptions]
    ) -> ReplyPromise:
        """Send a value; return a promise of the answer.

        Raises:
            Usage: an agent sends a request before its loop.
        """
        asker = this_runner()
        if asker is not None and not asker.begun:
            # The worker reads no records before all of its agents iterate, so there would never be an answer.
            raise Usage(
                f"agent {asker.name} sends a request to agent {self.name} before its own loop",
                hint="send it inside of `async for`, or in an @app.task",
            )
        reply_to, key = self._get_strtopic(options.get("reply_to") or self.app.conf.reply_to), options.get("key")
        promise = ReplyPromise(reply_to, options.get("correlation_id") or str(random_uuid()))
        headers: Any = options.get("headers")
        value, headers = cast(Any, self._create_req(key, value, reply_to, promise.correlation_id, headers))
        cast(ReplyConsumer, cast(Any, self.app)._reply_consumer).expect(promise)
        await cast("Topic", self.channel).send(
            key=key,
            value=value,
            partition=options.get("partition"),
            timestamp=options.get("timestamp"),
            headers=headers,
            force=force or acting_runner() is not None,
        )
        return promise

    def _create_req(self, *args: Any, **kwargs: Any) -> tuple[object, object]:
        value, headers = super()._create_req(*args, **kwargs)
        if acting_runner() is not None:
            merge_headers(cast(Any, headers), {_ANSWER_NOW: b""})
        return value, headers

    async def _delegate_to_sinks(self, value: object) -> None:
        await (send_keyed(value, self._sinks) if isinstance(value, Keyed) else super()._delegate_to_sinks(value))

    async def _reply(self, key: object, value: object, reply_to: str, correlation_id: str) -> None:
        event, plain = current_event(), answer_of(value)
        response = self._response_class(plain)(key=key, value=plain, correlation_id=correlation_id)
        topic = cast("App", self.app).topic(reply_to)
        await topic.send(value=response, force=event is not None and _ANSWER_NOW in event.headers)

    async def _prepare_actor(self, aref: ActorRefT, beacon: NodeT[object]) -> ActorRefT:
        if isinstance(aref, Awaitable) and self._sinks:
            raise ImproperlyConfigured("Agent must yield to use sinks")
        started: Any = aref
        first = [started.it]

        def make() -> Coroutine[Any, Any, None]:
            # A restart calls the agent function again with the same stream. The actor stays, because each new one would
            # stay in Faust's tree of services for ever.
            made: Any = first.pop() if first else self.fun(started.stream)
            return self._awaited(made) if isinstance(made, Awaitable) else self._slurp(started, aiter(made))

        runner = Runner(runtime_of(self.app).context, self.name, make, started.stream, lambda: self.should_stop)
        task = cast(Any, self.loop.create_task(self._run(runner)))
        task._beacon = beacon
        started.actor_task = task
        self._actors.add(started)
        return started

    async def _awaited(self, actor: Awaitable[object]) -> None:
        await actor

    async def _run(self, runner: Runner) -> None:
        _current_agent.set(self)
        try:
            await runner.main()
        except asyncio.CancelledError:
            if not self.should_stop and not runner.context.stopping:
                raise


def _to_the_end(barrier: BarrierState) -> Any:
    """Return an iterator of a barrier's answers that raises, at its end, if a question was refused."""
    iterate = barrier.iterate

    async def answers() -> AsyncIterator[object]:
        async for answer in iterate():
            yield answer
        if barrier.done():
            barrier.result()

    return answers


def _is_async(fun: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(fun) or inspect.isasyncgenfunction(fun)


def _check_async(fun: Callable[..., object]) -> None:
    """Refuse a plain function, and one that cannot be called with a stream alone.

    Raises:
        Usage: the worker could not start the agent.
    """
    # A decorated async function returns the function's coroutine, and so may a lambda. A decorator may also make an
    # async function of a plain one.
    inner = inspect.unwrap(fun, stop=_is_async)
    if not inspect.isfunction(inner) or inner.__name__ == "<lambda>":
        return
    if not _is_async(inner):
        code = inner.__code__
        raise Usage(
            f"agent {inner.__name__} is a plain function ({Path(code.co_filename).name}:{code.co_firstlineno})",
            hint=f"async def {inner.__name__}(stream), and in it: async for value in stream",
        )
    if hasattr(fun, "__signature__"):  # set by a decorator, and perhaps that of the function that it calls
        return
    try:
        # As it is called: a decorator may give the function more than the stream.
        inspect.signature(fun, follow_wrapped=False).bind(None)
    except TypeError as exc:
        raise Usage(
            f"agent {inner.__name__} is called with its stream alone: {exc}",
            hint=f"async def {inner.__name__}(stream), outside of classes; other values from variables of the module",
        ) from None


def _check_options(options: Mapping[str, object]) -> None:
    """Refuse options that do not exist. Options of topics are taken where the agent makes its own topic.

    Raises:
        TypeError: names the option, and the nearest that exists.
    """
    known = {"on_failure", *inspect.signature(FaustAgent.__init__).parameters} - {"kwargs"}
    if not isinstance(options.get("channel"), ChannelT):
        known |= {"partitioner", "private", *inspect.signature(FaustApp.topic).parameters}
    check_options("agent", options, known)


def _check_types(options: Mapping[str, Any]) -> None:
    """Refuse types of which no record can be read: of the agent's topic, or of the one that it makes.

    Raises:
        Usage: see `check_declared`.
    """
    if hasattr(options.get("channel"), "check_types"):  # a topic
        options["channel"].check_types(is_read=True)
        return
    check_declared(
        "agent",
        key_type=None if options.get("key_serializer") else options.get("key_type"),
        value_type=None if options.get("value_serializer") else options.get("value_type"),
    )


def _sinks(given: object) -> list[object]:
    """Return the sinks of an agent, from what may be iterated once only.

    Raises:
        Usage: they are no topics, agents and functions.
    """
    several = isinstance(given, Iterable) and not isinstance(given, str)
    sinks = list(cast("Iterable[object]", given)) if several else [given]
    for sink in sinks:
        if not several or not (isinstance(sink, AgentT | ChannelT) or callable(sink)):
            shown = f"app.topic({sink!r})" if isinstance(sink, str) else "receipts"
            raise Usage(
                f"agent(sink={given!r}): sinks are a list of topics, agents and functions", hint=f"sink=[{shown}]"
            )
    return sinks


def declare_agent(app: App, *args: Any, **options: Any) -> Callable[[Callable[..., object]], Agent]:
    """Make the decorator `@app.agent(…)`; see `AgentDeclaration`.

    Raises:
        Usage: it has no parentheses, so that the function would never run. By the decorator: another agent has the
            name. Faust replaces that one, which then never runs.
    """
    if args and inspect.isfunction(args[0]):
        raise Usage(f"@app.agent without a topic, before {args[0].__name__}", hint="@app.agent(orders)")
    decorate = cast(Any, FaustApp.agent)(app, *args, **options)

    def declared(fun: Callable[..., object]) -> Agent:
        known = dict(app.agents)
        made = decorate(fun)
        if made.name in known and not _is_loaded_again(known[made.name], made):
            app.agents[made.name] = known[made.name]
            raise Usage(
                f"two agents called {made.name}",
                hint='give one another name, under which its progress is kept: @app.agent(…, name="…")',
            )
        return made

    return declared


def _is_loaded_again(former: AgentT[Any], agent: Agent) -> bool:
    """Return whether an agent is the former one, whose module runs a second time: it is the program (`python shop.py`),
    and imported by its name as well, say by `autodiscover`; or it is reloaded. A loop makes agents of the same code."""
    one, other = (getattr(inspect.unwrap(each.fun), "__code__", None) for each in (former, agent))
    if one is None or other is None or one is other:
        return False
    same = (one.co_filename, one.co_firstlineno) == (other.co_filename, other.co_firstlineno)
    return same and list(former.get_topic_names()) == list(agent.get_topic_names())
