"""Dead letters put back where they came from, each once.

Promise: a `read_committed` reader of the topic sees the record of a letter once, however often this is started, killed
and started again, with whichever filters. It rests on the replay's rule: which letters were put back stands in the
topic of runs, written in the same transaction as their records. A record that fails again makes a new letter, which is
another one.

What was put back is kept as ranges of offsets of the letters' topic, `{"partition:begin": end}`. A letters' topic that
was made anew has another id, and nothing of it was put back.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec

from ...topics.admin import Admin
from ...topics.client import Cluster
from ...topics.deadletter import SUFFIX
from ...topics.errors import Rebuild, Stop, Usage
from ...topics.partition import Plan
from ...topics.plans import Plans
from ...topics.producer import TransactionalProducer
from ...topics.undoing import on_failure
from ..checkpoint import RUNS_TOPIC, Runs, RunState
from ..sources.item import Item
from ..sources.source import Position
from ..target import Target
from ..transaction import Transaction
from .letters import Count, Letter, Wanted, counted, read_letters

__all__ = ["DeadLetters", "PutBack", "Ranges"]

TRANSACTION_LETTERS = 5_000
TRANSACTION_BYTES = 16_000_000

# The state of a run is one record, and a topic takes about 1 MB of it unless told otherwise.
_MOST_RANGES = 30_000


class Ranges:
    """Offsets by partition, as ranges that do not touch.

    >>> ranges = Ranges({"0:5": 9})
    >>> ranges.add(0, 9, 12)
    >>> ranges.add(0, 20, 21)
    >>> ranges.position(), (0, 11) in ranges, (0, 12) in ranges
    ({'0:5': 12, '0:20': 21}, True, False)
    """

    def __init__(self, position: Position | None = None) -> None:
        self._ranges: dict[int, list[tuple[int, int]]] = {}
        for name, end in (position or {}).items():
            partition, _, begin = name.partition(":")
            self._ranges.setdefault(int(partition), []).append((int(begin), end))
        for ranges in self._ranges.values():
            ranges.sort()

    def __contains__(self, at: tuple[int, int]) -> bool:
        partition, offset = at
        ranges = self._ranges.get(partition, [])
        i = bisect_left(ranges, (offset + 1,)) - 1
        return i >= 0 and offset < ranges[i][1]

    def __len__(self) -> int:
        return sum(map(len, self._ranges.values()))

    def add(self, partition: int, begin: int, end: int) -> None:
        """Add a range; those that it touches become one with it."""
        ranges = self._ranges.setdefault(partition, [])
        i = bisect_left(ranges, (begin,))
        if i and ranges[i - 1][1] >= begin:
            i -= 1
        until = i
        while until < len(ranges) and ranges[until][0] <= end:
            begin, end = min(begin, ranges[until][0]), max(end, ranges[until][1])
            until += 1
        ranges[i:until] = [(begin, end)]

    def position(self) -> Position:
        """As a run keeps it."""
        return {f"{partition}:{begin}": end for partition, ranges in self._ranges.items() for begin, end in ranges}


@dataclass(frozen=True, slots=True)
class PutBack:
    """What was done.

    Attributes:
        target: the topic they went to.
        sent: records put back now; before: that were put back earlier, of those that are meant.
        without_record: letters that are meant and have no record to put back.
        examples: the first few letters that were, or would be, put back.
    """

    target: str
    sent: int = 0
    before: int = 0
    without_record: int = 0
    examples: tuple[Letter, ...] = ()


class DeadLetters:
    """The dead letters of one topic.

    Args:
        topic: of the letters.
        to: where to put them, instead of where they came from.
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
    ) -> None:
        self._cluster, self._topic, self._to, self._now = cluster, topic, to, now
        self._admin = Admin(cluster)
        self._runs = Runs(cluster, runs_topic)
        self._most = transaction_letters
        self.run_id = run_id or f"dlq-{topic}" + (f"-to-{to}" if to else "")
        self.target = to or topic.removesuffix(SUFFIX)

    def read(self, wanted: Wanted) -> Iterator[tuple[Letter, bool]]:
        """Letters that are meant, and whether they were put back (blocking)."""
        state = self._found()
        done = Ranges(state.position if state else None)
        for span in read_letters(self._cluster, self._topic):
            for letter in span.letters:
                if wanted.holds(letter):
                    yield letter, (letter.partition, letter.offset) in done

    def counts(self) -> dict[tuple[str, str, str], Count]:
        """(agent, reason, error) -> how many letters (blocking)."""
        return counted(self.read(Wanted()))

    def look(self, wanted: Wanted) -> PutBack:
        """What `put_back` would do (blocking)."""
        found = PutBack(self.target)
        for letter, before in self.read(wanted):
            found = _with(found, letter, before)
        return found

    def put_back(self, wanted: Wanted) -> PutBack:
        """Put back what is meant and was not put back yet (blocking).

        Raises:
            Usage: there is no such topic to put it in.
            Stop: the topic would not keep the records.
            Rebuild: the same was started a second time.
        """
        self._runs.create()
        producer = TransactionalProducer(self._cluster, f"anabranch-replay-{self.run_id}")
        try:
            producer.open()
            return self._put(producer, wanted)
        except Rebuild as exc:
            raise Rebuild(
                f"run {self.run_id} is no longer ours: {exc}",
                hint="it was started a second time, and the later start goes on with it; nothing is put back twice",
            ) from exc
        finally:
            producer.close()

    def _put(self, producer: TransactionalProducer, wanted: Wanted) -> PutBack:
        partitions = self._admin.partitions([self.target]).get(self.target)
        if partitions is None:
            raise Usage(f"no topic {self.target}", hint="create it, or name another one: --to TOPIC")
        target = Target.of(self.target, self._admin.config(self.target))
        plan = Plans(self._cluster).check(self.target, partitions, None)
        state = self._found() or RunState(
            run_id=self.run_id,
            topic=self.target,
            specs=(self._topic,),
            format={},
            fingerprint=self._id(),
            started_ms=_now_ms(),
        )
        if not self._runs.holds(state):
            raise Stop(
                f"topic {self.target} no longer holds what was put back: it was deleted or made anew",
                hint="--run-id NAME starts another run, which puts back all of them",
            )
        done, report = Ranges(state.position), PutBack(self.target)
        for span in read_letters(self._cluster, self._topic):
            fresh: list[tuple[int, Letter]] = []
            begin = span.begin
            for letter in span.letters:
                if wanted.holds(letter):
                    before = (letter.partition, letter.offset) in done
                    report = _with(report, letter, before)
                    if letter.origin is not None and not before:
                        fresh.append((begin, letter))
                begin = letter.offset + 1  # what lies between two letters are markers, so their ranges meet
            for part in self._parts(fresh):
                state = self._send(Transaction(producer, self._runs, target, plan, state), part, done, plan)
        return report

    def _send(self, work: Transaction, part: list[tuple[int, Letter]], done: Ranges, plan: Plan) -> RunState:
        with on_failure(work.abandon):
            work.send([self._item(letter, plan.partitions) for _, letter in part], _now_ms())
            for begin, letter in part:
                done.add(letter.partition, begin, letter.offset + 1)
            if len(done) > _MOST_RANGES:
                raise Stop(
                    "the letters put back lie too scattered among the others to be remembered",
                    hint="filter less finely, or put back a range of them: --offset FIRST-LAST",
                )
        return work.commit(done.position(), done=False, now_ms=_now_ms())

    def _parts(self, letters: list[tuple[int, Letter]]) -> Iterator[list[tuple[int, Letter]]]:
        part: list[tuple[int, Letter]] = []
        size = 0
        for begin, letter in letters:
            part.append((begin, letter))
            size += len(letter.value or b"") + len(letter.key or b"")
            if len(part) >= self._most or size >= TRANSACTION_BYTES:
                yield part
                part, size = [], 0
        if part:
            yield part

    def _item(self, letter: Letter, partitions: int) -> Item:
        origin = letter.origin
        assert origin is not None
        own = origin[1] if origin[0] == self.target and origin[1] < partitions else None
        stamp_ms = 0 if self._now else max(0, letter.timestamp_ms)
        return letter.key, letter.value, stamp_ms, letter.headers or None, own

    def _found(self) -> RunState | None:
        """What was put back of this topic; None where nothing was, or it was made anew since."""
        if self._runs.topic not in self._admin.partitions([self._runs.topic]):
            return None
        state = self._runs.read(self.run_id)
        if state is None:
            return None
        if state.specs != (self._topic,) or state.topic != self.target:
            raise Usage(
                f"run {self.run_id} puts letters of {' '.join(state.specs)} into {state.topic}",
                hint="--run-id NAME starts another run, which puts back all of them",
            )
        if state.fingerprint != self._id():
            return msgspec.structs.replace(state, fingerprint=self._id(), position=None)
        return state

    def _id(self) -> str:
        return self._admin.topic_ids([self._topic])[self._topic]


def _with(report: PutBack, letter: Letter, before: bool) -> PutBack:
    if letter.origin is None:
        return replace(report, without_record=report.without_record + 1)
    if before:
        return replace(report, before=report.before + 1)
    return replace(report, sent=report.sent + 1, examples=(*report.examples, letter)[:3])


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
