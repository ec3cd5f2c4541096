"""The surroundings of the workers of a test: a clock, an event loop and a Kafka in memory, and nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from random import Random
from typing import TYPE_CHECKING, TypeVar

from ...agents.faust_adapter.faust_values import models_kept
from ...topics import clock, identifiers, threads
from ...topics.admin import TopicSpec
from ...topics.memory.interceptor import Interceptor, PassThrough
from ...topics.memory.memory_kafka import MemoryKafka
from ...topics.partitioner_registry import PartitionerRegistry
from ...topics.partitioners import Partitioner
from .virtual_clock import START, VirtualClock
from .virtual_loop import Owner, VirtualLoop

if TYPE_CHECKING:
    from ...topics.memory.client import Client

__all__ = ["Dead", "Environment", "without_logs"]

T = TypeVar("T")

# Event time is independent of the virtual clock, so brokers must take records from its future.
_TOPIC_DEFAULTS = {"message.timestamp.after.max.ms": str(2**63 - 1)}


# While nothing happens, workers look for records this seldom; more often while the session of a dead worker ends. Their
# heartbeats go on meanwhile.
_COAST_S, _SHORT_COAST_S = 30.0, 10.0


class Dead(BaseException):
    """A worker that was killed calls Kafka: its code must not go on."""


class _Living:
    """Lets workers that were killed have no effect any more.

    Attributes:
        inner: sees the operations of all others.
    """

    def __init__(self) -> None:
        self.inner: Interceptor = PassThrough()

    def call(self, client: Client, operation: str, act: Callable[[], T]) -> T:
        """Carry out an operation of a client that is alive."""
        owner = client.owner
        if not isinstance(owner, Owner):
            return self.inner.call(client, operation, act)
        if owner.dropped:
            raise Dead(owner.name)
        result = self.inner.call(client, operation, act)
        if owner.dropped:  # killed inside of the call
            raise Dead(owner.name)
        return result


@contextmanager
def without_logs() -> Generator[None]:
    """Log nothing inside of the block: much fails there on purpose."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)


class Environment:
    """Clock, event loop, Kafka and random identifiers.

    Args:
        start: the time of day at which the clock begins.
        seed: identifiers follow from it.
        choose: the order of callbacks of different owners; see `VirtualLoop`.
        delay_s: how long blocking calls of workers wait; see `threads.inline`.

    Attributes:
        clock, loop, kafka: what they are called.
    """

    def __init__(
        self,
        *,
        start: datetime = START,
        seed: int = 0,
        choose: Callable[[int], int] | None = None,
        delay_s: Callable[[], float] | None = None,
    ) -> None:
        self.clock = VirtualClock(start)
        self.loop = VirtualLoop(self.clock, choose=choose)
        self.loop.coast_s = _COAST_S
        self._delay_s = delay_s
        self._random = Random(seed)  # noqa: S311 (a test's)
        self._inside = False
        self._at_the_end = ExitStack()
        self._at_the_end.enter_context(models_kept())
        self._living = _Living()
        with self.entered():
            self.kafka = MemoryKafka()
        self.kafka.topic_defaults = _TOPIC_DEFAULTS
        self.kafka.interceptor = self._living

    @property
    def interceptor(self) -> Interceptor:
        """Sees all operations of workers that are alive; can be replaced."""
        return self._living.inner

    @interceptor.setter
    def interceptor(self, interceptor: Interceptor) -> None:
        self._living.inner = interceptor

    @contextmanager
    def entered(self) -> Generator[None]:
        """Let the process go by this environment's clock and identifiers inside of the block, without threads."""
        if self._inside:
            yield
            return
        with ExitStack() as stack:
            stack.enter_context(clock.use(self.clock))
            stack.enter_context(threads.inline(idle=self.loop.idle, delay_s=self._delay_s))
            stack.enter_context(identifiers.seeded(self._random))
            self._inside = True
            try:
                yield
            finally:
                self._inside = False

    @contextmanager
    def loading(self) -> Generator[None]:
        """Enter, and let the environment's event loop be the current one, for code that creates apps."""
        outer = asyncio._get_running_loop()  # pyright: ignore[reportPrivateUsage]
        with self.entered():
            asyncio._set_running_loop(self.loop)  # pyright: ignore[reportPrivateUsage]
            try:
                yield
            finally:
                asyncio._set_running_loop(outer)  # pyright: ignore[reportPrivateUsage]

    def create_topic(self, spec: TopicSpec, partitioner: Partitioner | None) -> None:
        """Create a topic, with a partitioner of its own if it has one."""
        with self.entered():
            if partitioner is None:
                self.kafka.create_topic(spec.name, spec.partitions, spec.config)
            else:
                PartitionerRegistry(self.kafka.cluster()).create(spec, partitioner)

    def run_until(self, condition: Callable[[], bool], deadline_s: float | None = None) -> bool:
        """Run the event loop; see `VirtualLoop.run_until`."""
        with self.entered():
            return self.loop.run_until(condition, deadline_s)

    def coast(self, is_still: Callable[[], bool] | None) -> None:
        """Let the loop coast while `is_still` returns True; None for never. See `VirtualLoop`."""
        if is_still is None:
            self.loop.coast = None
            return

        def coast() -> bool:
            members = (member for group in self.kafka.groups.values() for member in group.members.values())
            silent = any(member.client.silent_since_s is not None for member in members)
            self.loop.coast_s = _SHORT_COAST_S if silent else _COAST_S
            return is_still()

        self.loop.coast = coast

    def kill(self, owner: Owner) -> None:
        """Let nothing that belongs to an owner have an effect any more: its callbacks, its clients, its heartbeats."""
        owner.drop()
        with self.entered():
            for group in self.kafka.groups.values():
                for member in group.members.values():
                    if member.client.owner is owner:
                        member.client.fall_silent()

    def close(self) -> None:
        """End all coroutines. Call it once all owners are dropped."""
        with self._at_the_end, self.entered():
            self.loop.close()
