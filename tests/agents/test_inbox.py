"""Whatever happens between a batch and its commit, every record is handled once, in the order of its partition."""

from __future__ import annotations

from functools import cache
from typing import Any

import pyarrow
import pytest
from anabranch.agents.engine.inbox import Batch, Inbox, Position
from anabranch.agents.engine.rows import rows_of
from anabranch.topics.packed import PackedRecord, pack
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

P0, P1 = Position("orders", 0), Position("orders", 1)


class Fake:
    """As much of a message as an inbox asks for."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def offset(self) -> int:
        return self._offset

    def __repr__(self) -> str:
        return f"@{self._offset}"


@cache
def packed_record(rows: int) -> PackedRecord:
    return pack(pyarrow.record_batch({"n": range(rows)}))


class FakePacked(Fake):
    """As much of a packed message as its rows ask for."""

    def __init__(self, offset: int, rows: int) -> None:
        super().__init__(offset)
        record = packed_record(rows)
        self.value, self.headers = lambda: record.value, lambda: record.headers

    def __len__(self) -> int:
        return len(self.value())

    def timestamp(self) -> tuple[int, int]:
        return 1, 0


def packed(offset: int, rows: int, at: Position = P0) -> Batch:
    return Batch(at, rows_of(*at, FakePacked(offset, rows)), offset + 1)


def place(message: Any) -> tuple[int, int]:
    return message.offset(), getattr(message, "row", 0)


def places(taken: Batch | None) -> list[tuple[int, int]]:
    assert taken is not None
    return list(map(place, taken.messages))


def batch(*offsets: int, at: Position = P0, end: int | None = None) -> Batch:
    return Batch(at, [Fake(offset) for offset in offsets], (offsets[-1] + 1) if end is None else end)


def offsets(taken: Batch | None) -> list[int]:
    assert taken is not None
    return [message.offset() for message in taken.messages]


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


def test_batches_come_whole_and_in_order(inbox: Inbox) -> None:
    inbox.put(batch(0, 1, 2))
    inbox.put(batch(3, 4))
    assert inbox.waiting == 5
    assert offsets(inbox.take()) == [0, 1, 2]
    assert inbox.waiting == 2
    inbox.done()
    assert inbox.progress() == {P0: 3}
    assert offsets(inbox.take()) == [3, 4]
    inbox.done()
    assert inbox.take() is None
    assert inbox.progress() == {P0: 5}


def test_done_without_a_taken_batch_moves_nothing(inbox: Inbox) -> None:
    inbox.put(batch(0))
    inbox.done()
    assert inbox.progress() == {P0: 0}


def test_records_below_the_mark_were_handled_before(inbox: Inbox) -> None:
    inbox.reset({P0: 2})
    inbox.put(batch(0, 1))
    assert not inbox.has_work
    inbox.put(batch(0, 1, 2, 3))
    assert inbox.waiting == 2
    assert offsets(inbox.take()) == [2, 3]


def test_a_mark_in_a_gap_of_offsets_leaves_nothing_out(inbox: Inbox) -> None:
    # Transaction markers occupy offsets, so a mark may point at no record.
    inbox.reset({P0: 5})
    inbox.put(batch(3, 4, 6, 7))
    assert offsets(inbox.take()) == [6, 7]


def test_a_cut_takes_back_what_follows_the_record_the_agent_works_on(inbox: Inbox) -> None:
    #  taken  0 1 2 3          0 1 │ cut after 1
    #  queue  4 5              2 3   4 5
    inbox.put(batch(0, 1, 2, 3))
    inbox.put(batch(4, 5))
    taken = inbox.take()
    assert taken is not None
    inbox.cut_after(taken.messages[1])
    assert offsets(taken) == [0, 1]
    assert inbox.waiting == 4
    assert not inbox.has_work
    inbox.done()
    assert inbox.take() is None
    assert inbox.progress() == {P0: 2}
    inbox.cut = False
    assert inbox.has_work
    assert offsets(inbox.take()) == [2, 3]
    inbox.done()
    assert offsets(inbox.take()) == [4, 5]


def test_a_cut_in_a_gap_of_offsets_stands_at_the_next_record(inbox: Inbox) -> None:
    inbox.put(batch(0, 1, 7, 8))
    taken = inbox.take()
    assert taken is not None
    inbox.cut_after(taken.messages[1])
    inbox.done()
    assert inbox.progress() == {P0: 7}


def test_a_cut_leaves_the_list_of_whoever_keeps_the_batch_alone(inbox: Inbox) -> None:
    kept = batch(0, 1, 2)
    inbox.put(kept)
    taken = inbox.take()
    assert taken is not None
    inbox.cut_after(taken.messages[0])
    assert offsets(kept) == [0, 1, 2]


def test_a_cut_between_batches_only_closes(inbox: Inbox) -> None:
    inbox.put(batch(0, 1))
    inbox.cut_after(None)
    assert inbox.take() is None
    inbox.cut = False
    assert offsets(inbox.take()) == [0, 1]


def test_a_cut_after_a_record_of_another_batch_cuts_nothing(inbox: Inbox) -> None:
    # An agent that takes several records at a time may still work on one of a batch before.
    inbox.put(batch(0, 1))
    inbox.put(batch(2, 3))
    first = inbox.take()
    assert first is not None
    inbox.done()
    second = inbox.take()
    inbox.cut_after(first.messages[1])
    assert offsets(second) == [2, 3]


def test_streams_that_share_a_partition_go_on_to_the_end_so_that_they_are_equally_far(inbox: Inbox) -> None:
    inbox.shared = True
    inbox.put(batch(0, 2, end=4))
    inbox.put(Batch(P0, [], 6))  # all of this run went to the streams beside
    inbox.put(batch(7, end=8))
    taken = inbox.take()
    assert taken is not None
    inbox.cut_after(taken.messages[0])
    assert offsets(taken) == [0, 2]
    inbox.done()
    assert inbox.progress() == {P0: 4}
    assert inbox.has_work
    assert offsets(inbox.take()) == [7]
    inbox.done()
    assert inbox.take() is None
    assert inbox.progress() == {P0: 8}


def test_a_run_without_records_for_this_stream_moves_its_mark(inbox: Inbox) -> None:
    inbox.shared = True
    inbox.put(Batch(P0, [], 6))
    assert inbox.take() is None
    assert inbox.progress() == {P0: 6}


def test_a_careful_inbox_hands_out_record_by_record(inbox: Inbox) -> None:
    inbox.careful = True
    inbox.put(batch(0, 1, 5))
    progress = []
    while inbox.has_work:
        assert len(offsets(inbox.take())) == 1
        inbox.done()
        progress.append(inbox.progress()[P0])
    assert progress == [1, 5, 6]


def test_a_poisoned_record_comes_alone_with_its_reason_and_what_is_before_it_comes_first(inbox: Inbox) -> None:
    why = ValueError("no")
    inbox.poisoned[P0, 2, 0] = why
    inbox.put(batch(0, 1, 2, 3, 4))
    runs = []
    while inbox.has_work:
        taken = inbox.take()
        assert taken is not None
        runs.append((offsets(taken), inbox.poison_of(taken)))
        inbox.done()
    assert runs == [([0, 1], None), ([2], why), ([3, 4], None)]


def test_the_same_offset_of_another_partition_is_not_poisoned(inbox: Inbox) -> None:
    inbox.poisoned[P1, 0, 0] = ValueError("no")
    inbox.put(batch(0, 1))
    taken = inbox.take()
    assert taken is not None
    assert inbox.poison_of(taken) is None
    assert offsets(taken) == [0, 1]


def test_again_from_gives_a_record_and_what_follows_it_back(inbox: Inbox) -> None:
    inbox.put(batch(0, 1, 2))
    taken = inbox.take()
    assert taken is not None
    inbox.again_from(taken.messages[1])
    assert inbox.progress() == {P0: 1}
    assert inbox.waiting == 2
    inbox.done()  # nothing is taken any more
    assert inbox.progress() == {P0: 1}
    assert offsets(inbox.take()) == [1, 2]


def test_a_record_given_back_after_a_cut_comes_before_what_was_cut_off(inbox: Inbox) -> None:
    inbox.put(batch(0, 1, 2, 3))
    taken = inbox.take()
    assert taken is not None
    inbox.cut_after(taken.messages[1])
    inbox.again_from(taken.messages[1])
    inbox.cut = False
    assert offsets(inbox.take()) == [1]
    inbox.done()
    assert offsets(inbox.take()) == [2, 3]


def test_what_is_held_back_counts_as_not_handled(inbox: Inbox) -> None:
    inbox.put(batch(0, 1, 2))
    inbox.put(batch(0, 1, at=P1))
    inbox.take()
    inbox.done()
    inbox.take()
    inbox.done()
    inbox.held[P0] = 1
    assert inbox.progress() == {P0: 1, P1: 2}
    del inbox.held[P0]
    assert inbox.progress() == {P0: 3, P1: 2}


def test_a_reset_goes_on_from_the_marks_it_is_given(inbox: Inbox) -> None:
    marks = {P0: 1}
    inbox.put(batch(0, 1, 2))
    inbox.take()
    inbox.held[P0] = 0
    inbox.reset(marks)
    assert inbox.waiting == 0
    assert not inbox.has_work
    inbox.done()
    assert inbox.progress() == {P0: 1}
    inbox.put(batch(0, 1, 2))
    assert offsets(inbox.take()) == [1, 2]
    inbox.done()
    assert marks == {P0: 1}, "the committed marks are the engine's"


def test_dropping_a_partition_forgets_only_that_one(inbox: Inbox) -> None:
    inbox.put(batch(0, 1))
    inbox.put(batch(0, at=P1))
    inbox.held[P0] = 0
    inbox.poisoned = {(P0, 1, 0): ValueError("no"), (P1, 0, 0): ValueError("no")}
    inbox.drop({P0})
    assert inbox.waiting == 1
    assert inbox.progress() == {P1: 0}
    assert list(inbox.poisoned) == [(P1, 0, 0)]
    assert offsets(inbox.take()) == [0]


def test_a_packed_batch_is_not_cut(inbox: Inbox) -> None:
    inbox.put(packed(5, 3))
    inbox.put(batch(6, 7))
    assert inbox.waiting == 5
    taken = inbox.take()
    assert places(taken) == [(5, 0), (5, 1), (5, 2)]
    inbox.cut_after(taken.messages[0])
    assert len(taken.messages) == 3
    inbox.done()
    assert inbox.progress() == {P0: 6}
    assert inbox.take() is None


def test_in_the_middle_of_a_packed_batch_rows_are_handed_out_after_a_cut_and_its_offset_stands(inbox: Inbox) -> None:
    inbox.careful = True
    inbox.put(packed(5, 3))
    inbox.put(batch(6))
    assert places(inbox.take()) == [(5, 0)]
    inbox.cut_after(None)
    progress = []
    while True:
        inbox.done()
        progress.append(inbox.progress()[P0])
        taken = inbox.take()
        if taken is None:
            break
        assert len(taken.messages) == 1
    assert progress == [5, 5, 6]


def test_a_poisoned_row_comes_alone_with_its_reason(inbox: Inbox) -> None:
    why = ValueError("no")
    inbox.poisoned[P0, 5, 1] = why
    inbox.put(packed(5, 4))
    runs = []
    while inbox.has_work:
        taken = inbox.take()
        runs.append((places(taken), inbox.poison_of(taken)))
        inbox.done()
    assert runs == [([(5, 0)], None), ([(5, 1)], why), ([(5, 2), (5, 3)], None)]
    assert inbox.progress() == {P0: 6}


def test_a_row_that_is_tried_again_lets_its_whole_batch_wait(inbox: Inbox) -> None:
    inbox.again = {(P0, 5, 1): 10.0, (P0, 5, 2): 20.0}
    for made in (batch(4), packed(5, 3), batch(6), batch(0, at=P1)):
        inbox.put(made)
    assert places(inbox.take()) == [(4, 0)]
    inbox.done()
    assert inbox.take().at == P1
    inbox.done()
    assert inbox.take() is None
    assert inbox.progress() == {P0: 5, P1: 1}
    inbox.release(19.0)
    assert not inbox.has_work
    inbox.release(20.0)
    assert not inbox.again
    assert places(inbox.take()) == [(5, 0)], "it may fail again, so row by row"


class InboxMachine(RuleBasedStateMachine):
    """A stream and its engine, reduced to what they do to an inbox.

    `handled` is what agents did in this epoch, `committed` what counts for ever. A redo forgets the epoch and hands the
    kept batches over again, from the committed marks.
    """

    shared = False

    def __init__(self) -> None:
        super().__init__()
        self.inbox = Inbox()
        self.inbox.shared = self.shared
        self.log: dict[Position, list[tuple[int, int]]] = {P0: [], P1: []}
        self.end = {P0: 0, P1: 0}
        self.kept: list[Batch] = []
        self.handled: dict[Position, list[tuple[int, int]]] = {P0: [], P1: []}
        self.committed: dict[Position, list[tuple[int, int]]] = {P0: [], P1: []}
        self.marks: dict[Position, int] = {}
        self.taken: Batch | None = None
        self.at_record = -1

    @rule(
        at=st.sampled_from([P0, P1]),
        gaps=st.lists(st.integers(0, 2), min_size=1, max_size=5),
        trailing=st.integers(0, 1),
    )
    def arrives(self, at: Position, gaps: list[int], trailing: int) -> None:
        new: list[int] = []
        for gap in gaps:
            new.append(self.end[at] + gap)
            self.end[at] = new[-1] + 1
        if self.shared:
            mine = [offset for offset in new if offset % 2]
            made = Batch(at, [Fake(offset) for offset in mine], self.end[at])
            self.log[at] += [(offset, 0) for offset in mine]
        else:
            self.end[at] += trailing
            made = Batch(at, [Fake(offset) for offset in new], self.end[at])
            self.log[at] += [(offset, 0) for offset in new]
        self.kept.append(made)
        self.inbox.put(made)

    @rule(at=st.sampled_from([P0, P1]), rows=st.integers(1, 4))
    def arrives_packed(self, at: Position, rows: int) -> None:
        made = packed(self.end[at], rows, at)
        if self.shared:
            made = made._replace(messages=made.messages.only(range(1, rows, 2)))
        self.log[at] += map(place, made.messages)
        self.end[at] += 1
        self.kept.append(made)
        self.inbox.put(made)

    @precondition(lambda self: self.taken is None)
    @rule()
    def takes(self) -> None:
        cut = self.inbox.cut and not self.shared and not self.inbox.inside
        self.taken = self.inbox.take()
        assert not (cut and self.taken), "after a cut nothing is handed out"
        self.at_record = -1
        if self.taken is not None:
            assert self.taken.messages
            assert len(self.taken.messages) == 1 or not self.inbox.careful
            self.handles()

    def handles(self) -> None:
        assert self.taken is not None
        self.at_record += 1
        at, message = self.taken.at, self.taken.messages[self.at_record]
        alone = self.inbox.poisoned.get((at, *place(message)))
        assert self.at_record == 0 or alone is None, "poison is only looked for at the head of a batch"
        assert alone is self.inbox.poison_of(self.taken) or self.at_record > 0
        self.handled[at].append(place(message))

    @precondition(lambda self: self.taken is not None)
    @rule(records=st.integers(1, 3))
    def goes_on(self, records: int) -> None:
        assert self.taken is not None
        for _ in range(records):
            if self.at_record + 1 < len(self.taken.messages):
                self.handles()
            else:
                self.inbox.done()
                self.taken = None
                break

    @rule()
    def is_cut(self) -> None:
        self.inbox.cut_after(self.taken.messages[self.at_record] if self.taken is not None else None)

    @precondition(lambda self: self.taken is None and not self.inbox.inside)  # else the agent is not parked
    @rule()
    def commits_and_goes_on(self) -> None:
        for at, mark in self.inbox.progress().items():
            self.committed[at] += self.handled[at]
            self.handled[at] = []
            assert self.committed[at] == [found for found in self.log[at] if found[0] < mark]
            self.marks[at] = mark
        self.kept = [batch for batch in self.kept if batch.end > self.marks.get(batch.at, 0)]
        self.inbox.careful = False
        self.inbox.poisoned.clear()
        self.inbox.cut = False

    @precondition(lambda self: self.taken is not None)
    @rule()
    def fails_and_undoes_one_record(self) -> None:
        assert self.taken is not None
        message: Any = self.taken.messages[self.at_record]
        where = (self.taken.at, *place(message))
        if where in self.inbox.poisoned:
            return
        self.inbox.poisoned[where] = ValueError("no")
        self.inbox.again_from(message)
        assert self.handled[self.taken.at].pop() == place(message)
        self.taken = None

    @rule(careful=st.booleans())
    def is_redone(self, careful: bool) -> None:
        self.inbox.careful = careful
        self.inbox.reset(self.marks)
        self.inbox.cut = False
        self.handled = {P0: [], P1: []}
        self.taken = None
        for made in self.kept:
            self.inbox.put(made)

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
        assert self.inbox.waiting == sum(map(len, self.log.values())) - handled - (in_hand - begun)

    def teardown(self) -> None:
        """Left alone, it comes to the end."""
        while self.taken is not None:
            self.goes_on(1)
        self.inbox.cut = False
        self.takes()
        while self.taken is not None:
            self.goes_on(1)
            if self.taken is None:
                self.takes()
        self.commits_and_goes_on()
        assert self.committed == self.log
        assert all(mark == self.end[at] for at, mark in self.inbox.progress().items())


class SharedInboxMachine(InboxMachine):
    """Beside another stream, that gets the even offsets."""

    shared = True


TestEveryRecordIsHandledOnceInOrder = InboxMachine.TestCase
TestEveryRecordOfASharedPartitionIsHandledOnceInOrder = SharedInboxMachine.TestCase
for case in (InboxMachine, SharedInboxMachine):
    case.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
