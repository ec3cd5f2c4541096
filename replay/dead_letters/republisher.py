"""Dead letters re-published, each once: to the agent that failed, and to nobody else.

An agent's letters go to its retry topic (`agents/engine/retry_topics.py`), made when it is needed; letters without an
agent go to the topic that they came from, and with `to` all go there.

Promise: a `read_committed` reader of such a topic sees the record of a letter once, however often this is started,
killed and started again, with whichever filters. It rests on the replay's rule: which letters were put back stands in
the topic of runs, written in the same transaction as their records. Each topic has a run of its own. A record that
fails again makes a new letter, which is another one.

A letters' topic that was made anew has another id, and nothing of it was put back.
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
from ..run_registry import RUNS_TOPIC, RunRegistry, RunState
from .letters import Counts, Letter, Wanted, counted, read_letters
from .offset_ranges import Ranges
from .republish_run import Republished, create_retry_topic

__all__ = ["DeadLetters", "Ranges", "Republication"]

TRANSACTION_LETTERS = 5_000


@dataclass(frozen=True, slots=True)
class Republication:
    """What was done.

    Attributes:
        sent: records put back now; before: that were put back earlier, of those that are meant.
        to: topic -> how many of them went there now; agents: topic -> app and agent that alone read it.
        without_record: letters that are meant and have no record to put back.
        examples: the first few letters that were, or would be, put back.
    """

    sent: int = 0
    before: int = 0
    to: dict[str, int] = field(default_factory=dict[str, int])
    agents: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    without_record: int = 0
    examples: tuple[Letter, ...] = ()


class DeadLetters:
    """The dead letters of one topic.

    Args:
        topic: of the letters.
        to: where to put them all, instead of where they belong.
        run_id: name of the run; none means the one of this topic and target.
        now: give the records the present time, instead of their own.
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
        self._most = transaction_letters
        self.run_id = run_id or f"dlq-{topic}" + (f"-to-{to}" if to else "")
        self.target = to or topic.removesuffix(SUFFIX)

    @cached_property
    def _id(self) -> str:
        return self._admin.topic_ids([self._topic])[self._topic]

    def read(self, wanted: Wanted) -> Iterator[tuple[Letter, bool]]:
        """Letters that are meant, and whether they were put back (blocking)."""
        done = self._done(self._runs.all())
        for span in read_letters(self._cluster, self._topic):
            for letter in span.letters:
                if wanted.holds(letter):
                    yield letter, self._is_done(letter, done)

    def counts(self) -> Counts:
        """How many letters there are of each kind (blocking)."""
        return counted(self.read(Wanted()))

    @classmethod
    def counts_of(cls, cluster: Cluster, topics: Sequence[str]) -> dict[str, Counts]:
        """`counts` of many topics, read at once (blocking)."""
        counts: dict[str, Counts] = {topic: {} for topic in topics}
        for letter, put_back in cls.each_of(cluster, topics):
            counted(iter([(letter, put_back)]), counts[letter.topic])
        return counts

    @classmethod
    def each_of(
        cls, cluster: Cluster, topics: Sequence[str], admin: Admin | None = None
    ) -> Iterator[tuple[Letter, bool]]:
        """The letters of many topics, and whether they were put back (blocking)."""
        if not topics:
            return
        admin, states = admin or Admin(cluster), RunRegistry(cluster).all()
        all_of = {topic: cls(cluster, topic, admin=admin) for topic in topics}
        done = {topic: of._done(states) for topic, of in all_of.items()}
        for span in read_letters(cluster, *topics):
            for letter in span.letters:
                yield letter, all_of[span.topic]._is_done(letter, done[span.topic])

    def _is_done(self, letter: Letter, done: Mapping[str, Ranges]) -> bool:
        """Whether a letter was put back; before agents had topics of their own, it went to the topic itself."""
        at, own, itself = (letter.partition, letter.offset), done.get(self._target_of(letter)), done.get(self.target)
        return (own is not None and at in own) or (itself is not None and at in itself)

    def look(self, wanted: Wanted) -> Republication:
        """What `put_back` would do (blocking)."""
        report = Republication()
        for letter, before in self.read(wanted):
            report = self._with(report, letter, before=before)
        return report

    def put_back(self, wanted: Wanted) -> Republication:
        """Put back what is meant and was not put back yet (blocking).

        Raises:
            Usage: there is no such topic to put it in.
            Stop: the topic would not keep the records.
            Rebuild: the same was started a second time.
        """
        self._runs.create()
        # What went to the topic itself, before agents had topics of their own, was put back, too.
        state = self._found()
        earlier = Ranges(state.position if state else None)
        report, opened = Republication(), dict[str, Republished]()
        begins: dict[tuple[int, str], int] = {}
        with ExitStack() as stack:
            for span in read_letters(self._cluster, self._topic):
                fresh: dict[str, list[tuple[int, Letter]]] = {}
                for letter in span.letters:
                    target = self._target_of(letter)
                    # Between two letters that go to one topic are markers, and others': their ranges meet.
                    begin = begins.get((letter.partition, target), 0)
                    for name in {target, self.target}:
                        begins[letter.partition, name] = letter.offset + 1
                    if not wanted.holds(letter):
                        continue
                    if letter.origin is None:
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

    def _opened(self, stack: ExitStack, target: str, letter: Letter) -> Republished:
        origin = letter.origin
        assert origin is not None
        retry = target != self.target
        if retry:
            create_retry_topic(self._cluster, self._admin, target, origin.topic)
        started_ms = clock.now_ms()
        state = RunState(
            run_id=self._run_of(target),
            topic=target,
            specs=(self._topic,),
            format={},
            fingerprint=self._id,
            started_ms=started_ms,
        )
        republished = Republished(
            self._cluster, self._admin, self._runs, state, retry=retry, now=self._now, most=self._most
        )
        try:
            stack.enter_context(republished)
        except Rebuild as exc:
            raise republished.taken_over(exc) from exc
        republished.begin(self._found(target))
        return republished

    def _target_of(self, letter: Letter) -> str:
        """Where a letter's record goes."""
        return self.target if self._to is not None else letter.retry_topic or self.target

    def _run_of(self, target: str) -> str:
        return self.run_id if target == self.target else f"{self.run_id}-to-{target}"

    def _done(self, states: Iterable[RunState]) -> dict[str, Ranges]:
        """Topic -> what was put back of these letters into it."""
        return {
            state.topic: Ranges(self._checked(state, state.topic).position)
            for state in states
            if state.specs == (self._topic,)
            and state.run_id == self._run_of(state.topic)
            and self._to in (None, state.topic)
        }

    def _found(self, target: str | None = None) -> RunState | None:
        """What was put back of this topic into a target; None where nothing was, or it was made anew since."""
        target = target or self.target
        if self._runs.topic not in self._admin.partitions([self._runs.topic]):
            return None
        state = self._runs.read(self._run_of(target))
        return None if state is None else self._checked(state, target)

    def _checked(self, state: RunState, target: str) -> RunState:
        if state.specs != (self._topic,) or state.topic != target:
            raise Usage(
                f"run {state.run_id} puts letters of {' '.join(state.specs)} into {state.topic}",
                hint="--run-id NAME starts another run, which puts back all of them",
            )
        if state.fingerprint != self._id:
            return msgspec.structs.replace(state, fingerprint=self._id, position=None)
        return state

    def _with(self, report: Republication, letter: Letter, *, before: bool) -> Republication:
        if letter.origin is None:
            return replace(report, without_record=report.without_record + 1)
        if before:
            return replace(report, before=report.before + 1)
        target = self._target_of(letter)
        report.to[target] = report.to.get(target, 0) + 1
        if target != self.target:
            report.agents[target] = letter.facts["app"], letter.facts["agent"]
        return replace(report, sent=report.sent + 1, examples=(*report.examples, letter)[:3])
