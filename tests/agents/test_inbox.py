"""Whatever happens between a batch and its commit, every record is handled once, in the order of its partition."""

from __future__ import annotations

import pytest
from anabranch.agents.engine.record_queue import Batch, RecordQueue
from handed import P0, P1, batch, offsets, packed, place


def places(taken: Batch | None) -> list[tuple[int, int]]:
    assert taken is not None
    return list(map(place, taken.messages))


@pytest.fixture
def inbox() -> RecordQueue:
    return RecordQueue()


def test_batches_come_whole_and_in_order(inbox: RecordQueue) -> None:
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


def test_done_without_a_taken_batch_moves_nothing(inbox: RecordQueue) -> None:
    inbox.put(batch(0))
    inbox.done()
    assert inbox.progress() == {P0: 0}


def test_records_below_the_mark_were_handled_before(inbox: RecordQueue) -> None:
    inbox.reset({P0: 2})
    inbox.put(batch(0, 1))
    assert not inbox.has_work
    inbox.put(batch(0, 1, 2, 3))
    assert inbox.waiting == 2
    assert offsets(inbox.take()) == [2, 3]


def test_a_mark_in_a_gap_of_offsets_leaves_nothing_out(inbox: RecordQueue) -> None:
    # Transaction markers occupy offsets, so a mark may point at no record.
    inbox.reset({P0: 5})
    inbox.put(batch(3, 4, 6, 7))
    assert offsets(inbox.take()) == [6, 7]


def test_a_cut_takes_back_what_follows_the_record_the_agent_works_on(inbox: RecordQueue) -> None:
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


def test_a_cut_in_a_gap_of_offsets_stands_at_the_next_record(inbox: RecordQueue) -> None:
    inbox.put(batch(0, 1, 7, 8))
    taken = inbox.take()
    assert taken is not None
    inbox.cut_after(taken.messages[1])
    inbox.done()
    assert inbox.progress() == {P0: 7}


def test_a_cut_leaves_the_list_of_whoever_keeps_the_batch_alone(inbox: RecordQueue) -> None:
    kept = batch(0, 1, 2)
    inbox.put(kept)
    taken = inbox.take()
    assert taken is not None
    inbox.cut_after(taken.messages[0])
    assert offsets(kept) == [0, 1, 2]


def test_a_cut_between_batches_only_closes(inbox: RecordQueue) -> None:
    inbox.put(batch(0, 1))
    inbox.cut_after(None)
    assert inbox.take() is None
    inbox.cut = False
    assert offsets(inbox.take()) == [0, 1]


def test_a_cut_after_a_record_of_another_batch_cuts_nothing(inbox: RecordQueue) -> None:
    # An agent that takes several records at a time may still work on one of a batch before.
    inbox.put(batch(0, 1))
    inbox.put(batch(2, 3))
    first = inbox.take()
    assert first is not None
    inbox.done()
    second = inbox.take()
    inbox.cut_after(first.messages[1])
    assert offsets(second) == [2, 3]


def test_streams_that_share_a_partition_go_on_to_the_end_so_that_they_are_equally_far(inbox: RecordQueue) -> None:
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


def test_a_run_without_records_for_this_stream_moves_its_mark(inbox: RecordQueue) -> None:
    inbox.shared = True
    inbox.put(Batch(P0, [], 6))
    assert inbox.take() is None
    assert inbox.progress() == {P0: 6}


def test_a_careful_inbox_hands_out_record_by_record(inbox: RecordQueue) -> None:
    inbox.careful = True
    inbox.put(batch(0, 1, 5))
    progress = []
    while inbox.has_work:
        assert len(offsets(inbox.take())) == 1
        inbox.done()
        progress.append(inbox.progress()[P0])
    assert progress == [1, 5, 6]


def test_a_poisoned_record_comes_alone_with_its_reason_and_what_is_before_it_comes_first(inbox: RecordQueue) -> None:
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


def test_the_same_offset_of_another_partition_is_not_poisoned(inbox: RecordQueue) -> None:
    inbox.poisoned[P1, 0, 0] = ValueError("no")
    inbox.put(batch(0, 1))
    taken = inbox.take()
    assert taken is not None
    assert inbox.poison_of(taken) is None
    assert offsets(taken) == [0, 1]


def test_again_from_gives_a_record_and_what_follows_it_back(inbox: RecordQueue) -> None:
    inbox.put(batch(0, 1, 2))
    taken = inbox.take()
    assert taken is not None
    inbox.again_from(taken.messages[1])
    assert inbox.progress() == {P0: 1}
    assert inbox.waiting == 2
    inbox.done()  # nothing is taken any more
    assert inbox.progress() == {P0: 1}
    assert offsets(inbox.take()) == [1, 2]


def test_a_record_given_back_after_a_cut_comes_before_what_was_cut_off(inbox: RecordQueue) -> None:
    inbox.put(batch(0, 1, 2, 3))
    taken = inbox.take()
    assert taken is not None
    inbox.cut_after(taken.messages[1])
    inbox.again_from(taken.messages[1])
    inbox.cut = False
    assert offsets(inbox.take()) == [1]
    inbox.done()
    assert offsets(inbox.take()) == [2, 3]


def test_what_is_held_back_counts_as_not_handled(inbox: RecordQueue) -> None:
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


def test_a_reset_goes_on_from_the_marks_it_is_given(inbox: RecordQueue) -> None:
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


def test_dropping_a_partition_forgets_only_that_one(inbox: RecordQueue) -> None:
    inbox.put(batch(0, 1))
    inbox.put(batch(0, at=P1))
    inbox.held[P0] = 0
    inbox.poisoned = {(P0, 1, 0): ValueError("no"), (P1, 0, 0): ValueError("no")}
    inbox.drop({P0})
    assert inbox.waiting == 1
    assert inbox.progress() == {P1: 0}
    assert list(inbox.poisoned) == [(P1, 0, 0)]
    assert offsets(inbox.take()) == [0]


def test_a_packed_batch_is_not_cut(inbox: RecordQueue) -> None:
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


def test_in_the_middle_of_a_packed_batch_rows_are_handed_out_after_a_cut_and_its_offset_stands(
    inbox: RecordQueue,
) -> None:
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


def test_a_poisoned_row_comes_alone_with_its_reason(inbox: RecordQueue) -> None:
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


def test_a_row_that_is_tried_again_lets_its_whole_batch_wait(inbox: RecordQueue) -> None:
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
