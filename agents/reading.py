"""The loops of an agent over its stream: it may leave one and begin another, or have one inside of another."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..topics.errors import Usage
from .engine.firing import FiringRecord

if TYPE_CHECKING:
    from .stream import Stream
    from .take_buffer import TakeBuffer

__all__ = ["Reading", "refuse_others"]

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Reading:
    """A loop of an agent over its stream.

    Attributes:
        grouped: whether the agent gets several records at a time.
        by_batch: whether these are batches.
        held: the records that `take` holds back.
    """

    grouped: bool
    by_batch: bool
    held: TakeBuffer | None = None

    def leave(self, stream: Stream, *, is_processing: bool) -> None:
        """Put what the loop has taken, and the agent has not seen, back into the queue.

        Args:
            is_processing: the processors of the record at hand have not come to an end.
        """
        message, queue = stream.message, stream.queue
        if type(message) is FiringRecord or (queue.has_taken if message is None else is_processing):
            # By a timeout around it. What has been done there, and what not, is not known.
            logger.warning("agent %s has cancelled its loop between two values: the epoch is rolled back", stream.name)
            stream.context.epoch.want_rollback()
        elif message is not None:  # else it has failed, or was cancelled while it waited for records
            queue.leave(message)
        if self.held is not None:
            self.held.leave(message)


def refuse_others(stream: Stream) -> None:
    """Refuse a loop over a stream that is not the agent's own, or made from it (`group_by`, `through`).

    Such a stream would get no records, without a word: the engine waits for those of agents only.

    Raises:
        Usage: `app.stream(topic)` in a task, in another agent, or in a task that an agent has started.
    """
    runner, origin = stream.context.current, cast(Any, stream)
    # A stream between two steps, as in `group_by(…).through(…)`, is read by a runner of its own.
    while origin._prev is not None and (runner is None or runner.source is not origin):
        origin = origin._prev
    if runner is None or runner.source is not origin:
        where = "outside of an agent" if runner is None else f"in agent {runner.name}, whose stream is another one"
        topics = ", ".join(stream.topic.topics)
        raise Usage(
            f"a loop over a stream of topic {topics} {where}",
            hint="only an agent gets records, from the stream it is given: @app.agent(topic), and in it: "
            "async for value in stream",
        )
