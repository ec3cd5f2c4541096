"""Re-publishes dead letters, each once: to the agent that failed, and to no other reader.

Dead letters of an agent go to its retry topic (`agents/engine/replayed_dead_letters.py`), which is created when it is
needed.
Dead letters without an agent go to the topic that they came from. With `to`, all go to that topic.

Promise: a `read_committed` reader of these topics sees the record of a dead letter once, however often re-publishing is
started, killed and started again, with any filters. It rests on the same rule as a replay: which dead letters have been
re-published is stored in the topic of runs, in the same transaction as their records. Each topic has a run of its own.
A record that fails again has a new dead letter, which is re-published in its turn.

A dead-letter topic that was deleted and recreated has another topic id; its dead letters count as new.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property

import msgspec

from ...topics import clock
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.dead_letter import SUFFIX
from ...topics.errors import Rebuild, Usage
from ..run_state import RUNS_TOPIC, RunRegistry, RunState
from .dead_letter_reader import DeadLetterFilter, DeadLetterRecord, KindCounts, count_by_kind, read_dead_letters
from .republish_run import OffsetRanges, RepublishRun, change_state, create_retry_topic

__all__ = ["OffsetRanges", "Republication", "Republisher"]

TRANSACTION_LETTERS = 5_000


@dataclass(frozen=True, slots=True)
class Republication:
    """The result of re-publishing, or of its dry run.

    Attributes:
        sent: records that are re-published now.
        before: records of the chosen dead letters that had been re-published earlier.
        to: how many records go to each topic now.
        agents: for each retry topic, the app and the agent that read it.
        without_record: chosen dead letters that hold no record, but a line of a file.
        windows: chosen dead letters of windows that cannot be told again, or not to another topic: they are no records.
        examples: the first few dead letters that are re-published.
    """

    sent: int = 0
    before: int = 0
    to: dict[str, int] = field(default_factory=dict[str, int])
    agents: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    without_record: int = 0
    windows: int = 0
    examples: tuple[DeadLetterRecord, ...] = ()


class Republisher:
    """Re-publishes the dead letters of one dead-letter topic.

    Args:
        topic: the dead-letter topic.
        to: the topic that all records go to; None chooses it for each dead letter.
        run_id: name of the run; None derives it from the topic and `to`.
        now: give the records the present time instead of their own.
    """

    def __init__(
        self,
        cluster: Cluster,
        topic: str,
        *,
        to: str | None = None,
        run_id: str | None = None,
        now: bool = False,
        runs_topic: str = RUNS_TOPIC,
        transaction_letters: int = TRANSACTION_LETTERS,
        admin: Admin | None = None,
    ) -> None:
        self._cluster, self._topic, self._to, self._now = cluster, topic, to, now
        self._admin = admin or Admin(cluster)
        self._runs = RunRegistry(cluster, runs_topic)
        self._max_letters = transaction_letters
        self.run_id = run_id or f"dlq-{topic}" + (f"-to-{to}" if to else "")
        self.target = to or topic.removesuffix(SUFFIX)

    @cached_property
    def _id(self) -> str:
        return self._admin.topic_ids([self._topic])[self._topic]

    def read(self, chosen: DeadLetterFilter) -> Iterator[tuple[DeadLetterRecord, bool]]:
        """Yield the chosen dead letters, each with whether it has been re-published (blocking)."""
        done = self._done(self._runs.all())
        for batch in read_dead_letters(self._cluster, self._topic):
            for letter in batch.letters:
                if chosen.holds(letter):
                    yield letter, self._is_done(letter, done)

    def counts(self) -> KindCounts:
        """Count the dead letters by kind (blocking)."""
        return count_by_kind(self.read(DeadLetterFilter()))

    @classmethod
    def counts_of(cls, cluster: Cluster, topics: Sequence[str]) -> dict[str, KindCounts]:
        """Count the dead letters of many topics, which are read at once (blocking)."""
        counts: dict[str, KindCounts] = {topic: {} for topic in topics}
        for letter, republished in cls.each_of(cluster, topics):
            count_by_kind([(letter, republished)], counts[letter.topic])
        return counts

    @classmethod
    def each_of(
        cls, cluster: Cluster, topics: Sequence[str], admin: Admin | None = None
    ) -> Iterator[tuple[DeadLetterRecord, bool]]:
        """Yield the dead letters of many topics, each with whether it has been re-published (blocking)."""
        if not topics:
            return
        admin, states = admin or Admin(cluster), RunRegistry(cluster).all()
        all_of = {topic: cls(cluster, topic, admin=admin) for topic in topics}
        done = {topic: of._done(states) for topic, of in all_of.items()}
        for batch in read_dead_letters(cluster, *topics):
            for letter in batch.letters:
                yield letter, all_of[batch.topic]._is_done(letter, done[batch.topic])

    def _is_done(self, letter: DeadLetterRecord, done: Mapping[str, OffsetRanges]) -> bool:
        """Return whether a dead letter has been re-published, to its own target or to the topic that it came from."""
        at, own, itself = (letter.partition, letter.offset), done.get(self._target_of(letter)), done.get(self.target)
        return (own is not None and at in own) or (itself is not None and at in itself)

    def preview(self, chosen: DeadLetterFilter) -> Republication:
        """Return what `republish` would do; writes nothing (blocking)."""
        report = Republication()
        for letter, before in self.read(chosen):
            report = self._with(report, letter, before=before)
        return report

    def republish(self, chosen: DeadLetterFilter) -> Republication:
        """Re-publish the chosen dead letters that have not been re-published yet (blocking).

        Raises:
            Usage: the topic that the records go to does not exist.
            Stop: the topic would not keep the records.
            Rebuild: another process has taken a run over.
        """
        self._runs.create()
        # A record that was re-published to the topic that it came from does not go to the retry topic as well.
        state = self._found()
        earlier = OffsetRanges(state.position if state else None)
        report, opened = Republication(), dict[str, RepublishRun]()
        begins: dict[tuple[int, str], int] = {}
        with ExitStack() as stack:
            for batch in read_dead_letters(self._cluster, self._topic):
                fresh: dict[str, list[tuple[int, DeadLetterRecord]]] = {}
                for letter in batch.letters:
                    target = self._target_of(letter)
                    # Between two dead letters for one topic are only markers and dead letters for others: one range.
                    begin = begins.get((letter.partition, target), 0)
                    for name in {target, self.target}:
                        begins[letter.partition, name] = letter.offset + 1
                    if not chosen.holds(letter):
                        continue
                    if self._stays(letter):
                        report = self._with(report, letter, before=False)
                        continue
                    if target not in opened:
                        opened[target] = self._opened(stack, target, letter)
                    at = (letter.partition, letter.offset)
                    before = at in earlier or at in opened[target].done
                    report = self._with(report, letter, before=before)
                    if not before:
                        fresh.setdefault(target, []).append((begin, letter))
                for target, letters in fresh.items():
                    opened[target].send(letters)
        return report

    def _opened(self, stack: ExitStack, target: str, letter: DeadLetterRecord) -> RepublishRun:
        origin = letter.origin
        assert origin is not None
        retry = target != self.target
        if retry:
            create_retry_topic(self._cluster, self._admin, target, origin.topic)
        state = self._new_state(target)
        republished = RepublishRun(
            self._cluster, self._admin, self._runs, state, retry=retry, now=self._now, max_letters=self._max_letters
        )
        try:
            stack.enter_context(republished)
        except Rebuild as exc:
            raise republished.taken_over(exc) from exc
        republished.begin(self._found(target))
        return republished

    def _new_state(self, target: str) -> RunState:
        return RunState(
            run_id=self._run_of(target),
            topic=target,
            specs=(self._topic,),
            format={},
            fingerprint=self._id,
            started_ms=clock.now_ms(),
        )

    def note_done(self, target: str, ranges: Iterable[tuple[int, int, int]], *, done: bool = True) -> None:
        """Store that dead letters are done, or not done, without re-publishing them (blocking).

        Args:
            target: the topic that they would go to.
            ranges: partition, first offset, and offset behind the last one.

        Raises:
            Stop: the state cannot be stored now; the call may be repeated.
        """
        self._runs.create()

        def noted(found: RunState | None) -> RunState:
            state = self._checked(found, target) if found else self._new_state(target)
            found_done = OffsetRanges(state.position)
            change = found_done.add if done else found_done.remove
            for partition, begin, end in ranges:
                change(partition, begin, end)
            return msgspec.structs.replace(state, position=found_done.position())

        change_state(self._cluster, self._runs, self._run_of(target), noted)

    def _target_of(self, letter: DeadLetterRecord) -> str:
        """Return the topic that the record of a dead letter goes to."""
        return self.target if self._to is not None else letter.retry_topic or self.target

    def _run_of(self, target: str) -> str:
        return self.run_id if target == self.target else f"{self.run_id}-to-{target}"

    def _done(self, states: Iterable[RunState]) -> dict[str, OffsetRanges]:
        """Return, for each topic, the offsets of these dead letters that were re-published into it."""
        return {
            state.topic: OffsetRanges(self._checked(state, state.topic).position)
            for state in states
            if state.specs == (self._topic,)
            and state.run_id == self._run_of(state.topic)
            and self._to in (None, state.topic)
        }

    def _found(self, target: str | None = None) -> RunState | None:
        """Return the state of the run that re-publishes into `target`; None if there is none."""
        target = target or self.target
        if self._runs.topic not in self._admin.partitions([self._runs.topic]):
            return None
        state = self._runs.read(self._run_of(target))
        return None if state is None else self._checked(state, target)

    def _checked(self, state: RunState, target: str) -> RunState:
        if state.specs != (self._topic,) or state.topic != target:
            raise Usage(
                f"run {state.run_id} re-publishes {' '.join(state.specs)} into {state.topic}",
                hint="--run-id NAME starts another run, which re-publishes all of them",
            )
        if state.fingerprint != self._id:
            return msgspec.structs.replace(state, fingerprint=self._id, position=None)
        return state

    def _stays(self, letter: DeadLetterRecord) -> bool:
        """Return whether a dead letter cannot be re-published."""
        return letter.origin is None or (letter.is_of_window and self._to is not None)

    def _with(self, report: Republication, letter: DeadLetterRecord, *, before: bool) -> Republication:
        if self._stays(letter):
            if letter.is_of_window:
                return replace(report, windows=report.windows + 1)
            return replace(report, without_record=report.without_record + 1)
        if before:
            return replace(report, before=report.before + 1)
        target = self._target_of(letter)
        report.to[target] = report.to.get(target, 0) + 1
        if target != self.target:
            report.agents[target] = letter.facts["app"], letter.facts["agent"]
        return replace(report, sent=report.sent + 1, examples=(*report.examples, letter)[:3])
