"""Whatever happens between a batch and its commit, every record is handled once: a queue against a log of it."""

from __future__ import annotations

from typing import Any

from anabranch.agents.engine.partition_queue import QueuedBatch
from anabranch.agents.engine.record_queue import RecordQueue
from anabranch.topics.topic_partition import TopicPartition
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from queue_records import P0, P1, Fake, packed, place


class InboxMachine(RuleBasedStateMachine):
    """A stream and its engine, reduced to what they do to a queue.

    `handled` is what agents did in this epoch, `committed` what counts for ever. A redo forgets the epoch and hands the
    kept batches over again, from the committed marks.
    """

    shared = False

    def __init__(self) -> None:
        super().__init__()
        self.queue = RecordQueue()
        self.queue.shared = self.shared
        self.log: dict[TopicPartition, list[tuple[int, int]]] = {P0: [], P1: []}
        self.end = {P0: 0, P1: 0}
        self.kept: list[QueuedBatch] = []
        self.handled: dict[TopicPartition, list[tuple[int, int]]] = {P0: [], P1: []}
        self.committed: dict[TopicPartition, list[tuple[int, int]]] = {P0: [], P1: []}
        self.marks: dict[TopicPartition, int] = {}
        self.taken: QueuedBatch | None = None
        self.at_record = -1

    @rule(
        at=st.sampled_from([P0, P1]),
        gaps=st.lists(st.integers(0, 2), min_size=1, max_size=5),
        trailing=st.integers(0, 1),
    )
    def arrives(self, at: TopicPartition, gaps: list[int], trailing: int) -> None:
        new: list[int] = []
        for gap in gaps:
            new.append(self.end[at] + gap)
            self.end[at] = new[-1] + 1
        if self.shared:
            mine = [offset for offset in new if offset % 2]
            made = QueuedBatch(at, [Fake(offset) for offset in mine], self.end[at])
            self.log[at] += [(offset, 0) for offset in mine]
        else:
            self.end[at] += trailing
            made = QueuedBatch(at, [Fake(offset) for offset in new], self.end[at])
            self.log[at] += [(offset, 0) for offset in new]
        self.kept.append(made)
        self.queue.put(made)

    @rule(at=st.sampled_from([P0, P1]), rows=st.integers(1, 4))
    def arrives_packed(self, at: TopicPartition, rows: int) -> None:
        made = packed(self.end[at], rows, at)
        if self.shared:
            made = made._replace(messages=made.messages.only(range(1, rows, 2)))
        self.log[at] += map(place, made.messages)
        self.end[at] += 1
        self.kept.append(made)
        self.queue.put(made)

    @precondition(lambda self: self.taken is None)
    @rule()
    def takes(self) -> None:
        cut = self.queue.cut and not self.shared and not self.queue.inside
        self.taken = self.queue.take()
        assert not (cut and self.taken), "after a cut nothing is handed out"
        self.at_record = -1
        if self.taken is not None:
            assert self.taken.messages
            assert len(self.taken.messages) == 1 or not self.queue.isolating
            self.handles()

    def handles(self) -> None:
        assert self.taken is not None
        self.at_record += 1
        at, message = self.taken.at, self.taken.messages[self.at_record]
        alone = self.queue.at(at).poisoned.get(place(message))
        assert self.at_record == 0 or alone is None, "poison is only looked for at the head of a batch"
        assert alone is self.queue.poison_of(self.taken) or self.at_record > 0
        self.handled[at].append(place(message))

    @precondition(lambda self: self.taken is not None)
    @rule(records=st.integers(1, 3))
    def goes_on(self, records: int) -> None:
        assert self.taken is not None
        for _ in range(records):
            if self.at_record + 1 < len(self.taken.messages):
                self.handles()
            else:
                self.queue.done()
                self.taken = None
                break

    @rule()
    def is_cut(self) -> None:
        self.queue.cut_after(self.taken.messages[self.at_record] if self.taken is not None else None)

    @precondition(lambda self: self.taken is None and not self.queue.inside)  # else the agent is not parked
    @rule()
    def commits_and_goes_on(self) -> None:
        for at, mark in self.queue.progress().items():
            self.committed[at] += self.handled[at]
            self.handled[at] = []
            assert self.committed[at] == [found for found in self.log[at] if found[0] < mark]
            self.marks[at] = mark
            self.queue.at(at).commit(mark, mark)
        self.kept = [batch for batch in self.kept if batch.end > self.marks.get(batch.at, 0)]
        self.queue.end_isolation()
        self.queue.uncut()
        for at, partition in self.queue.partitions.items():
            assert all(offset >= self.marks[at] for offset, _ in partition.poisoned), "what failed is handled"

    @precondition(lambda self: self.taken is not None)
    @rule()
    def fails_and_undoes_one_record(self) -> None:
        assert self.taken is not None
        message: Any = self.taken.messages[self.at_record]
        poisoned = self.queue.at(self.taken.at).poisoned
        if place(message) in poisoned:
            return
        poisoned[place(message)] = ValueError("no")
        self.queue.again_from(message)
        assert self.handled[self.taken.at].pop() == place(message)
        self.taken = None

    @rule(isolating=st.booleans())
    def is_redone(self, isolating: bool) -> None:
        self.queue.isolating = isolating
        self.queue.restart()
        self.queue.uncut()
        self.handled = {P0: [], P1: []}
        self.taken = None
        for made in self.kept:
            self.queue.put(made)

    @invariant()
    def nothing_is_handled_twice_or_left_out(self) -> None:
        for at, log in self.log.items():
            seen = self.committed[at] + self.handled[at]
            assert seen == log[: len(seen)]

    @invariant()
    def what_waits_is_counted(self) -> None:
        in_hand = 0 if self.taken is None else len(self.taken.messages)
        begun = 0 if self.taken is None else self.at_record + 1
        handled = sum(len(self.committed[at]) + len(self.handled[at]) for at in self.log)
        assert self.queue.waiting == sum(map(len, self.log.values())) - handled - (in_hand - begun)

    def teardown(self) -> None:
        """Left alone, it comes to the end."""
        while self.taken is not None:
            self.goes_on(1)
        self.queue.uncut()
        self.takes()
        while self.taken is not None:
            self.goes_on(1)
            if self.taken is None:
                self.takes()
        self.commits_and_goes_on()
        assert self.committed == self.log
        assert all(mark == self.end[at] for at, mark in self.queue.progress().items())


class SharedInboxMachine(InboxMachine):
    """Beside another stream, that gets the even offsets."""

    shared = True


TestEveryRecordIsHandledOnceInOrder = InboxMachine.TestCase
TestEveryRecordOfASharedPartitionIsHandledOnceInOrder = SharedInboxMachine.TestCase
for case in (InboxMachine, SharedInboxMachine):
    case.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
