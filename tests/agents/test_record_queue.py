"""Whatever happens between a batch and its commit, every record is handled once, in the order of its partition."""

from __future__ import annotations

import pytest
from anabranch.agents.engine.firing import ANY_RECORD, ANYWHERE
from anabranch.agents.engine.partition_queue import QueuedBatch
from anabranch.agents.engine.record_queue import RecordQueue
from queue_records import P0, P1, batch, offsets, packed, place


def places(taken: QueuedBatch | None) -> list[tuple[int, int]]:
    assert taken is not None
    return list(map(place, taken.messages))


@pytest.fixture
def queue() -> RecordQueue:
    return RecordQueue()


def test_batches_come_whole_and_in_order(queue: RecordQueue) -> None:
    queue.put(batch(0, 1, 2))
    queue.put(batch(3, 4))
    assert queue.waiting == 5
    assert offsets(queue.take()) == [0, 1, 2]
    assert queue.waiting == 2
    queue.done()
    assert queue.progress() == {P0: 3}
    assert offsets(queue.take()) == [3, 4]
    queue.done()
    assert queue.take() is None
    assert queue.progress() == {P0: 5}


def test_done_without_a_taken_batch_moves_nothing(queue: RecordQueue) -> None:
    queue.put(batch(0))
    queue.done()
    assert queue.progress() == {P0: 0}


def test_records_below_the_mark_were_handled_before(queue: RecordQueue) -> None:
    queue.begin(P0, 2)
    queue.put(batch(0, 1))
    assert not queue.has_work
    queue.put(batch(0, 1, 2, 3))
    assert queue.waiting == 2
    assert offsets(queue.take()) == [2, 3]


def test_a_mark_in_a_gap_of_offsets_leaves_nothing_out(queue: RecordQueue) -> None:
    # Transaction markers occupy offsets, so a mark may point at no record.
    queue.begin(P0, 5)
    queue.put(batch(3, 4, 6, 7))
    assert offsets(queue.take()) == [6, 7]


def test_a_cut_takes_back_what_follows_the_record_the_agent_works_on(queue: RecordQueue) -> None:
    #  taken  0 1 2 3          0 1 │ cut after 1
    #  queue  4 5              2 3   4 5
    queue.put(batch(0, 1, 2, 3))
    queue.put(batch(4, 5))
    taken = queue.take()
    assert taken is not None
    queue.cut_after(taken.messages[1])
    assert offsets(taken) == [0, 1]
    assert queue.waiting == 4
    assert not queue.has_work
    queue.done()
    assert queue.take() is None
    assert queue.progress() == {P0: 2}
    queue.uncut()
    assert queue.has_work
    assert offsets(queue.take()) == [2, 3]
    queue.done()
    assert offsets(queue.take()) == [4, 5]


def test_a_cut_in_a_gap_of_offsets_stands_at_the_next_record(queue: RecordQueue) -> None:
    queue.put(batch(0, 1, 7, 8))
    taken = queue.take()
    assert taken is not None
    queue.cut_after(taken.messages[1])
    queue.done()
    assert queue.progress() == {P0: 7}


def test_a_cut_leaves_the_list_of_whoever_keeps_the_batch_alone(queue: RecordQueue) -> None:
    kept = batch(0, 1, 2)
    queue.put(kept)
    taken = queue.take()
    assert taken is not None
    queue.cut_after(taken.messages[0])
    assert offsets(kept) == [0, 1, 2]


def test_a_cut_between_batches_only_closes(queue: RecordQueue) -> None:
    queue.put(batch(0, 1))
    queue.cut_after(None)
    assert queue.take() is None
    queue.uncut()
    assert offsets(queue.take()) == [0, 1]


def test_a_cut_after_a_record_of_another_batch_cuts_nothing(queue: RecordQueue) -> None:
    # An agent that takes several records at a time may still work on one of a batch before.
    queue.put(batch(0, 1))
    queue.put(batch(2, 3))
    first = queue.take()
    assert first is not None
    queue.done()
    second = queue.take()
    queue.cut_after(first.messages[1])
    assert offsets(second) == [2, 3]


def test_streams_that_share_a_partition_go_on_to_the_end_so_that_they_are_equally_far(queue: RecordQueue) -> None:
    queue.share()
    queue.put(batch(0, 2, end=4))
    queue.put(QueuedBatch(P0, [], 6))  # all of this run went to the streams beside
    queue.put(batch(7, end=8))
    taken = queue.take()
    assert taken is not None
    queue.cut_after(taken.messages[0])
    assert offsets(taken) == [0, 2]
    queue.done()
    assert queue.progress() == {P0: 4}
    assert queue.has_work
    assert offsets(queue.take()) == [7]
    queue.done()
    assert queue.take() is None
    assert queue.progress() == {P0: 8}


def test_a_run_without_records_for_this_stream_moves_its_mark(queue: RecordQueue) -> None:
    queue.share()
    queue.put(QueuedBatch(P0, [], 6))
    assert queue.take() is None
    assert queue.progress() == {P0: 6}


def test_a_careful_inbox_hands_out_record_by_record(queue: RecordQueue) -> None:
    queue.isolate()
    queue.put(batch(0, 1, 5))
    progress = []
    while queue.has_work:
        assert len(offsets(queue.take())) == 1
        queue.done()
        progress.append(queue.progress()[P0])
    assert progress == [1, 5, 6]


def test_a_poisoned_record_comes_alone_with_its_reason_and_what_is_before_it_comes_first(queue: RecordQueue) -> None:
    why = ValueError("no")
    queue.begin(P0, 0).poisoned[2, 0] = why
    queue.put(batch(0, 1, 2, 3, 4))
    runs = []
    while queue.has_work:
        taken = queue.take()
        assert taken is not None
        runs.append((offsets(taken), queue.poison_of(taken)))
        queue.done()
    assert runs == [([0, 1], None), ([2], why), ([3, 4], None)]


def test_the_same_offset_of_another_partition_is_not_poisoned(queue: RecordQueue) -> None:
    queue.begin(P1, 0).poisoned[0, 0] = ValueError("no")
    queue.put(batch(0, 1))
    taken = queue.take()
    assert taken is not None
    assert queue.poison_of(taken) is None
    assert offsets(taken) == [0, 1]


def test_again_from_gives_a_record_and_what_follows_it_back(queue: RecordQueue) -> None:
    queue.put(batch(0, 1, 2))
    taken = queue.take()
    assert taken is not None
    queue.again_from(taken.messages[1])
    assert queue.progress() == {P0: 1}
    assert queue.waiting == 2
    queue.done()  # nothing is taken any more
    assert queue.progress() == {P0: 1}
    assert offsets(queue.take()) == [1, 2]


def test_a_record_given_back_after_a_cut_comes_before_what_was_cut_off(queue: RecordQueue) -> None:
    queue.put(batch(0, 1, 2, 3))
    taken = queue.take()
    assert taken is not None
    queue.cut_after(taken.messages[1])
    queue.again_from(taken.messages[1])
    queue.uncut()
    assert offsets(queue.take()) == [1]
    queue.done()
    assert offsets(queue.take()) == [2, 3]


def test_what_is_held_back_counts_as_not_handled(queue: RecordQueue) -> None:
    queue.put(batch(0, 1, 2))
    queue.put(batch(0, 1, at=P1))
    queue.take()
    queue.done()
    queue.take()
    queue.done()
    queue.at(P0).held_back = 1
    assert queue.progress() == {P0: 1, P1: 2}
    queue.at(P0).held_back = None
    assert queue.progress() == {P0: 3, P1: 2}


def test_a_restart_continues_from_the_committed_offset(queue: RecordQueue) -> None:
    queue.put(batch(0, 1, 2))
    queue.take()
    queue.at(P0).commit(1, 1)
    queue.at(P0).held_back = 0
    queue.restart()
    assert queue.waiting == 0
    assert not queue.has_work
    queue.done()
    assert queue.progress() == {P0: 1}
    queue.put(batch(0, 1, 2))
    assert offsets(queue.take()) == [1, 2]
    queue.done()
    assert queue.at(P0).committed == 1
    assert queue.moved


def test_dropping_a_partition_forgets_only_that_one(queue: RecordQueue) -> None:
    queue.put(batch(0, 1))
    queue.put(batch(0, at=P1))
    queue.at(P0).held_back = 0
    queue.at(P0).poisoned[1, 0] = ValueError("no")
    queue.remove({P0})
    assert not queue.has_failed
    assert queue.waiting == 1
    assert queue.progress() == {P1: 0}
    assert offsets(queue.take()) == [0]


def test_a_batch_of_a_lost_partition_that_is_processed_to_its_end_does_not_bring_the_partition_back(
    queue: RecordQueue,
) -> None:
    queue.put(batch(0, 1))
    queue.take()
    queue.remove({P0})
    queue.at(P0).poisoned[0, 0] = ValueError("the agent raises after the partition was lost")
    queue.done()
    assert queue.progress() == {}
    assert not queue.has_failed


def test_a_delayed_partition_that_is_lost_leaves_the_count_of_the_others_alone(queue: RecordQueue) -> None:
    queue.begin(P0, 0).retries.at_s[0, 0] = 10.0
    queue.put(batch(0, 1))
    queue.put(batch(0, 1, 2, at=P1))
    assert queue.take().at == P1
    queue.done()
    queue.put(batch(2, 3))
    assert (queue.waiting, queue.handled) == (0, 3)
    queue.remove({P0})
    assert (queue.waiting, queue.handled, queue.delayed) == (0, 3, [])


def test_records_given_back_come_before_the_record_of_their_partition_that_waits_for_a_retry(
    queue: RecordQueue,
) -> None:
    queue.begin(P0, 0).retries.at_s[2, 0] = 10.0
    queue.put(batch(0, 1, 2, 3))
    taken = queue.take()
    assert offsets(taken) == [0, 1]
    queue.done()
    assert queue.take() is None
    assert taken is not None
    queue.give_back(P0, taken.messages)
    assert queue.waiting == 4
    assert offsets(queue.take()) == [0, 1]
    queue.done()
    assert queue.take() is None
    queue.release(10.0)
    assert offsets(queue.take()) == [2]
    queue.done()
    assert offsets(queue.take()) == [3]
    queue.done()
    assert queue.take() is None
    assert queue.waiting == 0


def test_a_packed_batch_is_not_cut(queue: RecordQueue) -> None:
    queue.put(packed(5, 3))
    queue.put(batch(6, 7))
    assert queue.waiting == 5
    taken = queue.take()
    assert places(taken) == [(5, 0), (5, 1), (5, 2)]
    queue.cut_after(taken.messages[0])
    assert len(taken.messages) == 3
    queue.done()
    assert queue.progress() == {P0: 6}
    assert queue.take() is None


def test_in_the_middle_of_a_packed_batch_rows_are_handed_out_after_a_cut_and_its_offset_stands(
    queue: RecordQueue,
) -> None:
    queue.isolate()
    queue.put(packed(5, 3))
    queue.put(batch(6))
    assert places(queue.take()) == [(5, 0)]
    queue.cut_after(None)
    progress = []
    while True:
        queue.done()
        progress.append(queue.progress()[P0])
        taken = queue.take()
        if taken is None:
            break
        assert len(taken.messages) == 1
    assert progress == [5, 5, 6]


def test_a_poisoned_row_comes_alone_with_its_reason(queue: RecordQueue) -> None:
    why = ValueError("no")
    queue.begin(P0, 0).poisoned[5, 1] = why
    queue.put(packed(5, 4))
    runs = []
    while queue.has_work:
        taken = queue.take()
        runs.append((places(taken), queue.poison_of(taken)))
        queue.done()
    assert runs == [([(5, 0)], None), ([(5, 1)], why), ([(5, 2), (5, 3)], None)]
    assert queue.progress() == {P0: 6}


def test_a_row_that_is_tried_again_lets_its_whole_batch_wait(queue: RecordQueue) -> None:
    queue.begin(P0, 0).retries.at_s = {(5, 1): 10.0, (5, 2): 20.0}
    for made in (batch(4), packed(5, 3), batch(6), batch(0, at=P1)):
        queue.put(made)
    assert places(queue.take()) == [(4, 0)]
    queue.done()
    assert queue.take().at == P1
    queue.done()
    assert queue.take() is None
    assert queue.progress() == {P0: 5, P1: 1}
    queue.release(19.0)
    assert not queue.has_work
    queue.release(20.0)
    assert not queue.at(P0).retries.at_s
    assert places(queue.take()) == [(5, 0)], "it may fail again, so row by row"


def test_the_failure_of_a_timer_of_several_partitions_is_forgotten_with_a_commit_that_comes_without_it(
    queue: RecordQueue,
) -> None:
    """After the rollback, a record of another topic has come first, and has cancelled it: one that is set again later
    for the same time is another one. A window closes once, so its failure stays."""
    partition = queue.at(P0)
    partition.poisoned |= {
        (ANY_RECORD, "timer"): ValueError(),
        (ANYWHERE, "window"): ValueError(),
        (7, 0): ValueError(),
    }
    partition.commit(5, 5)
    assert list(partition.poisoned) == [(ANYWHERE, "window"), (7, 0)]


def test_what_fires_twice_at_a_place_is_told_apart_until_the_epoch_is_rolled_back_or_ends(queue: RecordQueue) -> None:
    partition = queue.at(P0)
    assert [partition.numbered((3, "timer"), epoch=1) for _ in range(2)] == [(3, "timer"), (3, ("timer", 1))]
    assert partition.numbered((3, "timer"), epoch=2) == (3, "timer")
    partition.restart()
    assert partition.numbered((3, "timer"), epoch=2) == (3, "timer")


def test_failures_of_what_fires_at_one_place_are_forgotten_when_their_numbers_begin_anew(queue: RecordQueue) -> None:
    """After the rollback, a commit may come between two of them."""
    partition = queue.at(P0)
    first, second = (partition.numbered((3, "timer"), epoch=1) for _ in range(2))
    partition.poisoned |= {first: ValueError(), second: ValueError(), (3, "other"): ValueError(), (4, 0): ValueError()}
    partition.restart()
    partition.numbered((3, "timer"), epoch=2)
    assert {first, second} <= partition.poisoned.keys()
    partition.numbered((3, "timer"), epoch=3)
    assert list(partition.poisoned) == [(3, "other"), (4, 0)]
