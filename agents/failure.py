"""What becomes of a record that makes its agent fail.

The first failure in an epoch drops the epoch; its records come again one by one, each after a savepoint (*careful*),
so that exactly the failing record is found. From then on a failure undoes that record alone, unless its agent was
suspended in the middle of it, when others may have built on what it did; then the epoch is dropped again, and the
record is known as poisoned when it comes by. Either way it goes to its agent's policy, and careful ends with the first
epoch without a failure.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..topics.admin import TopicSpec
from ..topics.deadletter import dead_letter
from ..topics.errors import Stop
from .effects import Effects, Output
from .inbox import Position
from .runner import Runner

if TYPE_CHECKING:
    from .app import App
    from .stream import Stream

__all__ = ["Failures"]

logger = logging.getLogger(__name__)


class Failures:
    """Policies, savepoints, and the undoing of one record."""

    def __init__(self, app: App, effects: Effects) -> None:
        self._app, self._effects = app, effects
        self._savepoint: tuple[int, int, int] = (0, 0, -1)

    def policy_of(self, agent: str) -> str:
        """The failure policy of an agent, by name."""
        return getattr(self._app.agents.get(agent), "on_failure", "dead_letter")

    def give_up(self, stream: Stream, message: Any, error: BaseException, reason: str) -> None:
        """A record goes to the policy of its agent.

        Raises:
            Stop: the policy is `fail`.
        """
        policy = self.policy_of(stream.name)
        where = f"{message.topic()}[{message.partition()}]@{message.offset()}"
        text = f"{type(error).__name__}: {error}"
        fields = {"topic": message.topic(), "partition": message.partition(), "offset": message.offset()}
        fields["agent"] = stream.name
        if policy == "fail":
            raise Stop(
                f"agent {stream.name} failed at {where}: {text}",
                hint='mend the record or the agent; on_failure="dead_letter" would have set it aside',
            )
        if policy == "skip":
            self._effects.skipped += 1
            logger.warning("skipped %s (agent %s): %s", where, stream.name, text, extra=fields)
            return
        letter = dead_letter(
            topic=message.topic(),
            key=message.key(),
            value=message.value(),
            headers=message.headers(),
            reason=reason,
            error=text,
            source=where,
            partition=message.partition(),
            offset=message.offset(),
            timestamp_ms=message.timestamp()[1],
            agent=stream.name,
            app=self._app.conf.id,
        )
        self._app.require(TopicSpec(letter.topic, 1, self._app.conf.topic_replication_factor or 1))
        stamp_ms = max(0, message.timestamp()[1])
        self._effects.add(Output(letter.topic, letter.value, letter.key, -1, stamp_ms, letter.headers))
        self._effects.dead_letters += 1
        logger.warning("dead letter %s → %s (agent %s): %s", where, letter.topic, stream.name, text, extra=fields)

    def savepoint(self, runner: Runner | None) -> None:
        """What follows can be undone without touching what was before.

        Raises:
            BadRecord: what the record before wrote cannot be encoded.
        """
        # All or none: a table that refuses must not find that another one has moved on.
        for table in self._app.live_tables:
            table.check()
        for table in self._app.live_tables:
            table.savepoint()
        self._savepoint = (id(runner), runner.steps if runner else 0, len(self._effects.outputs))

    def undo(self, runner: Runner, error: Exception) -> bool:
        """An agent raised: undo its record, if that alone can be undone. False: the epoch has to be dropped.

        Raises:
            Stop: the agent failed outside of a record, or on purpose.
        """
        if isinstance(error, Stop):
            raise error
        stream = runner.stream
        message = stream.message if stream is not None else None
        if stream is None or message is None:
            logger.error("agent %s failed outside of a record", runner.name, exc_info=error)
            raise Stop(
                f"agent {runner.name} failed outside of a record: {type(error).__name__}: {error}",
                hint="what an agent does before its loop has to work; the traceback is in the log",
            ) from error
        logger.debug("agent %s failed", runner.name, exc_info=error)
        inbox = stream.inbox
        if not inbox.careful:
            inbox.careful = True
            return False
        inbox.poisoned[Position(message.topic(), message.partition()), message.offset()] = error
        owner, steps, outputs = self._savepoint
        if owner != id(runner) or steps != runner.steps or not stream.running:
            return False
        for table in self._app.live_tables:
            table.discard_overlay()
        self._effects.truncate(outputs)
        inbox.again_from(message)
        stream.forget_message()
        return True
