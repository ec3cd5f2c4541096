"""Handles records that make their agent fail.

The first failure in an epoch rolls back the epoch. Its records are then processed one at a time, each after a savepoint
(*isolating*), so that exactly the failing record is found. From then on, a failure rolls back only its own record.
There is one exception: if the agent was suspended while it processed the record, other agents may have built on its
work. Then the epoch is rolled back again, and the record is marked as poisoned for its next delivery. In both cases the
failure policy of the agent applies. Isolating ends with the first epoch without a failure.

What fires between two records (`firings.py`) is processed alone anyway. So its first failure marks it as poisoned, and
no record has to be isolated in order to find it.

If the policy is to retry, the record's partition waits in the record queue of the agent until the record is due. No
agent processes the record in the meantime: commits include the records before it, a revoke gives the partition away,
and a worker stops without waiting for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any

import msgspec

from ...topics import clock
from ...topics.admin import TopicSpec
from ...topics.dead_letter import SUFFIX, Origin, dead_letter, skipped_topic
from ...topics.error_location import raised_at
from ...topics.errors import BadRecord, Stop, described
from ...topics.headers import UnreadableHeaders
from ...topics.output import Output
from ...topics.topic_partition import TopicPartition
from .firing import FiringRecord
from .outbox import NO_TIME_MS, Outbox
from .partition_queue import PartitionQueue, place_of
from .protocols import Host, RecordFeed
from .rejected_records import RecordsRefused, Rules
from .replayed_dead_letters import RetryTopics
from .runner import Runner

__all__ = ["Failures"]

logger = logging.getLogger(__name__)

_MAX_SKIP_CHARACTERS = 200
_KEEP_S = 10.0


class Failures:
    """Failure policies, savepoints, and the rollback of single records.

    Attributes:
        rules: topic -> its rules, of topics that refused records recently; outputs are checked against them first.
        singly: topics that refused records for a reason that their rules do not explain.
    """

    def __init__(self, host: Host, outbox: Outbox, retries: RetryTopics) -> None:
        self._host, self._outbox, self._retries = host, outbox, retries
        self._savepoint: tuple[int, int, int] = (0, 0, -1)
        self._late_before: Counter[tuple[str, str]] = Counter()  # of the savepoint
        self.rules: dict[str, Rules] = {}
        self.singly: set[str] = set()
        self._learnt_s = 0.0

    def apply_policy(
        self, stream: RecordFeed, message: Any, error: BaseException, reason: str, records: int = 1
    ) -> None:
        """Apply the failure policy of its agent to a failed record.

        Args:
            records: number of records that the message stands for.

        Raises:
            Stop: the policy is `fail`, or the dead-letter topic does not accept the dead letter.
        """
        policy = getattr(self._host.agents.get(stream.name), "on_failure", "dead_letter")
        origin, headers = self._retries.origin(message)  # `origin`: its first position, if it failed before
        origin = origin or Origin(message.topic(), message.partition(), message.offset(), getattr(message, "row", None))
        source, row = str(origin), origin.row
        window = message.window if isinstance(message, FiringRecord) else None
        topic = origin.topic if window is None else window.source
        what = source if window is None else f"window {window.text} of table {window.operator}"
        text = described(error)
        fields = {"topic": origin.topic, "partition": origin.partition, "offset": origin.offset}
        fields |= {"agent": stream.name} if row is None else {"agent": stream.name, "row": row}
        if policy == "fail":
            raise Stop(
                f"agent {stream.name} failed at {what}: {text}",
                hint="fix the record or the agent; "
                'on_failure="dead_letter" sends failed records to the dead-letter topic',
            )
        self._outbox.failed[stream.name] += records
        self._host.answer_refused(headers, f"agent {stream.name} failed at the question: {text}")
        if policy == "skip":
            self._skip(stream.name, topic, text)
            logger.warning("skipped %s (agent %s): %s", what, stream.name, text, extra=fields)
            return
        partition = stream.queue.at(TopicPartition(message.topic(), message.partition()))
        letter = dead_letter(
            topic=topic,
            key=message.key(),
            value=message.value(),
            headers=headers,
            reason="decode" if isinstance(error, UnreadableHeaders) else reason,
            error=text,
            private_error=described(error, whole=True),
            private=self._host.private.of(topic).names | (window.private if window is not None else frozenset()),
            at=raised_at(error),
            source=source,
            # A window is no record of the topic, so it has no position there that could be read again.
            partition=origin.partition if window is None else None,
            offset=origin.offset if window is None else None,
            row=row,
            timestamp_ms=message.timestamp()[1],
            agent=stream.name,
            app=self._host.conf.id,
            app_version=self._host.conf.version,
            attempts=partition.failures.get(place_of(message)),
            retry_topic=self._retry_topic(stream, message, origin.topic),
            operator=None if window is None else window.operator,
            window=None if window is None else window.text,
        )
        self._host.provisioner.add_dead_letter_topic(letter.topic, topic)
        now_ms, timestamp_ms = _now_ms(), message.timestamp()[1]
        rules = self.rules.get(letter.topic)
        unsent = timestamp_ms in (0, NO_TIME_MS) or timestamp_ms > now_ms
        if unsent or (rules is not None and not rules.takes_time(timestamp_ms, now_ms)):
            timestamp_ms = None  # now, which every topic accepts; the headers hold the record's own
        output = Output(letter.topic, letter.value, letter.key, -1, timestamp_ms, letter.headers)
        why = rules.broken_by(output, now_ms) if rules is not None else None
        if rules is not None and why is not None and window is not None:
            # It may be larger than the records of the topic. It is in the table; the letter only names it.
            output = output._replace(value=window.short())
            why = rules.broken_by(output, now_ms)
        if why is not None:
            raise self._undeliverable(source, why) from error
        self._outbox.add_dead_letter(output, source)
        logger.warning("dead letter %s → %s (agent %s): %s", what, letter.topic, stream.name, text, extra=fields)

    def _retry_topic(self, stream: RecordFeed, message: Any, topic: str) -> str | None:
        """Return the topic to which a dead letter is re-published; None if it is of a window that cannot return."""
        if not isinstance(message, FiringRecord):
            own = message.topic()
            return own if self._retries.is_of_fired(stream.name, own) else self._retries.of(stream.name, topic)
        if message.window is not None and not message.window.returns:
            return None
        return self._retries.of_fired(stream.name, message.kind)

    def _skip(self, agent: str, topic: str, error: str) -> None:
        """Count a record that is skipped without a dead letter; a bounded run also notes it in a topic."""
        self._outbox.skip()
        if self._host.run_id:
            name = skipped_topic(self._host.conf.id)
            self._host.provisioner.add(TopicSpec(name, 1, self._host.conf.topic_replication_factor or 1))
            facts = {"agent": agent, "topic": topic, "error": error[:_MAX_SKIP_CHARACTERS]}
            self._outbox.add(Output(name, msgspec.json.encode(facts), None, 0, None, None))

    # Records that topics refuse: see `rejected_records.py` ------------------------------------------------------------

    def refused(self, error: RecordsRefused, outside: list[Output]) -> bool:
        """Handle a refusal of records of the epoch.

        Args:
            outside: outputs that no record has sent; a refused one is replaced by its dead letter.

        Returns:
            Whether reprocessing the epoch will give new information.

        Raises:
            Stop: a dead letter was refused.
        """
        fresh = {topic: rules for topic, rules in error.rules.items() if self.rules.get(topic) != rules}
        self.rules |= fresh
        self._learnt_s = clock.now_s()
        news = error.news or bool(fresh)
        if error.index is not None:
            why = BadRecord(error.why, hint="the broker refuses it; see the configuration of the topic")
            news = self._blame(error.index, why, outside) or news
        now_ms = _now_ms()
        for output in list(outside):
            rules = error.rules.get(output.topic)
            why = rules.broken_by(output, now_ms) if rules is not None else None
            if why is not None:
                self._refuse_outside(outside, output, why)
                news = True
        if not news and not self.singly.issuperset(error.topics):
            self.singly |= set(error.topics)
            news = True
        return news

    def _blame(self, index: int, why: BadRecord, outside: list[Output]) -> bool:
        """Mark the record that sent a refused output as poisoned.

        Args:
            index: of the output among those of the epoch; an output of no record becomes a dead letter instead.

        Returns:
            Whether the sender of the output is known.

        Raises:
            Stop: the output is a dead letter.
        """
        inside = len(self._outbox)
        if index >= inside:
            self._refuse_outside(outside, outside[index - inside], why)
            return True
        if index in self._outbox.dead_letter_sources:
            raise self._undeliverable(self._outbox.dead_letter_sources[index], why)
        owner = self._outbox.owners.get(index)
        if owner is not None:
            stream, (at, place) = owner
            stream.queue.at(at).poisoned[place] = why
        return owner is not None

    def _undeliverable(self, source: str, why: BaseException) -> Stop:
        return Stop(f"the dead letter of {source} does not fit: {why}")

    def _refuse_outside(self, outside: list[Output], output: Output, why: BadRecord) -> None:
        """Replace a refused output of a timer, a task or a web view by a dead letter of the topic it was sent to."""
        outside[:] = [other for other in outside if other is not output]
        self._host.refuse_question(output.headers, why)
        letter = dead_letter(
            topic=output.topic,
            key=output.key,
            value=output.value,
            headers=output.headers,
            reason="refused",
            error=described(why),
            private=self._host.private.of(output.topic).names,
            timestamp_ms=output.timestamp_ms,
            app=self._host.conf.id,
            app_version=self._host.conf.version,
        )
        logger.error("dead letter → %s (not sent by an agent): %s", letter.topic, described(why))
        if output.topic.endswith(SUFFIX) or output.topic in self._host.provisioner.refused:
            self._outbox.skip()  # no topic can take it: only the log has it
            return
        self._host.provisioner.add_dead_letter_topic(letter.topic, output.topic)
        outside.append(Output(letter.topic, letter.value, letter.key, -1, None, letter.headers))

    def check(self, output: Output, *, isolating: bool) -> None:
        """Check an output against the rules of its topic, if the topic has refused records.

        Sizes are checked only while isolating, after a record was too large: a record that compresses well fits even if
        its uncompressed size is above the limit.

        Raises:
            BadRecord: the topic does not accept the output.
        """
        rules = self.rules.get(output.topic)
        why = rules.broken_by(output, _now_ms(), sizes=isolating) if rules is not None else None
        if why is not None:
            raise why

    def forget_rules(self) -> None:
        """Discard the rules `_KEEP_S` seconds after the last refusal; called after each commit.

        Rules are kept for this time because a rule is seldom broken by one record only. They are not kept for longer
        because an operator who changes the configuration of a topic expects the change to take effect.
        """
        if (self.rules or self._host.provisioner.refused) and clock.now_s() - self._learnt_s > _KEEP_S:
            self.rules.clear()
            self.singly.clear()
            self._host.provisioner.refused.clear()

    def own(self, stream: RecordFeed, message: Any) -> None:
        """Note that the last output was sent by this record, which is processed alone."""
        at = TopicPartition(message.topic(), message.partition())
        self._outbox.owners[len(self._outbox.outputs) - 1] = stream, (at, place_of(message))

    def savepoint(self, runner: Runner) -> None:
        """Take a savepoint of an agent, so that its later changes can be rolled back without affecting earlier ones.

        What other agents have written meanwhile is theirs: if it cannot be kept, they are to blame at their own.

        Raises:
            BadRecord: a table change of the record before cannot be encoded, or its changelog does not accept it.
        """
        writer = runner.writer
        # Check all tables before any savepoint: if one table refuses, no other may have a new savepoint.
        for table in self._host.tables:
            table.uncommitted.check(writer)
            rules = self.rules.get(table.changelog_name)
            if rules is not None:
                for key, value in table.uncommitted.writes(writer):
                    encoded = table.value_codec.encode(value), table.key_codec.encode(key)
                    self.check(Output(table.changelog_name, *encoded, -1, None, None), isolating=True)
        for table in self._host.tables:
            table.uncommitted.savepoint(writer)
        self._savepoint = (id(runner), runner.steps, len(self._outbox.outputs))
        self._late_before = self._outbox.late.copy()

    def roll_back_record(self, runner: Runner, error: BaseException) -> bool:
        """Roll back the record of an agent that raised, if it can be rolled back alone.

        Returns:
            True: the record is rolled back, or its value came through memory. False: the epoch has to be dropped.

        Raises:
            Stop: the agent failed outside of a record, or raised Stop itself.
        """
        if isinstance(error, Stop):
            raise error
        if runner.source.in_hand:
            self._fail_in_memory(runner, error)
            return True
        stream = runner.stream
        message = stream.message if stream is not None else None
        if stream is not None and message is None and isinstance(error, asyncio.CancelledError):
            logger.warning("agent %s was cancelled between two records and is restarted", runner.name)
            stream.queue.isolate()  # finds a record that caused it: see `AgentContext.savepoint`
            return False
        if stream is None or message is None:
            logger.error("agent %s failed outside of a record", runner.name, exc_info=error)
            raise Stop(
                f"agent {runner.name} failed outside of a record: {described(error)}",
                hint="code before the loop of an agent must not fail; the traceback is in the log",
            ) from error
        logger.debug("agent %s failed", runner.name, exc_info=error)
        queue = stream.queue
        partition = queue.at(TopicPartition(message.topic(), message.partition()))
        if isinstance(message, FiringRecord):
            partition.poisoned[message.place] = error  # `firings.fire` has done so, unless it is no `Exception`
            return False
        # If the agent takes several records at a time, the failing one is not known yet.
        alone = not stream.grouped or (queue.isolating and partition.held_back in (None, message.offset()))
        if alone:
            self._count(stream, partition, message, error)
        if not queue.isolating:
            queue.isolate()
            return False
        if not alone:
            return False
        if hasattr(message, "row") and place_of(message) in partition.retries.at_s:
            return False  # its whole batch waits, so the rows before it are rolled back as well
        if not self.roll_back_to_savepoint(runner):
            return False
        queue.again_from(message)
        stream.message = None
        return True

    def roll_back_to_savepoint(self, runner: Runner) -> bool:
        """Discard what an agent has done since its savepoint.

        Returns:
            False: other agents may have built on it, so the epoch has to be rolled back.
        """
        owner, steps, outputs = self._savepoint
        if owner != id(runner) or steps != runner.steps or runner.stream is None or not runner.stream.running:
            return False
        for table in self._host.tables:
            table.uncommitted.discard_writes(runner.writer)
        runner.handed.clear()
        self._outbox.truncate(outputs)
        self._outbox.late = self._late_before.copy()
        return True

    def _count(self, stream: RecordFeed, partition: PartitionQueue, message: Any, error: BaseException) -> None:
        """Count a failure of a record; schedule a retry, or mark the record as poisoned for its next delivery."""
        place = place_of(message)
        failures = partition.failures[place] = partition.failures.get(place, 0) + 1
        retry = getattr(self._host.agents.get(stream.name), "retry", None)
        if retry is not None and retry.worth(error, failures):
            wait_s = retry.wait_s(failures)
            partition.retries.at_s[place] = clock.now_s() + wait_s
            logger.info(
                "%s[%d]@%d: retry in %.1f s (agent %s, %d of %d): %s",
                *partition.at,
                place[0],
                wait_s,
                stream.name,
                failures,
                retry.times,
                described(error),
            )
        elif stream.queue.isolating or retry is not None:
            partition.poisoned[place] = error

    def _fail_in_memory(self, runner: Runner, error: BaseException) -> None:
        """Apply the failure policy to a value from memory: it cannot be redelivered, so nothing is rolled back or kept.

        Raises:
            Stop: the policy is `fail`.
        """
        policy = getattr(self._host.agents.get(runner.source.name), "on_failure", "skip")
        if policy == "fail":
            raise Stop(
                f"agent {runner.name} failed: {described(error)}",
                hint='fix the agent; on_failure="skip" continues with the next value',
            ) from error
        self._skip(runner.source.name, "memory", described(error))
        logger.error("agent %s failed at a value of an in-memory channel, and continues", runner.name, exc_info=error)


def _now_ms() -> int:
    return clock.now_ms()
