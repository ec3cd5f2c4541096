"""Dead letters of an app that is reset: their records are processed again with all others.

`dlq replay` would bring such a record a second time. A reset therefore stores, where `dlq replay` stores what it has
re-published, that these dead letters are done. It also forgets how far the retry topics went that the reset deletes:
otherwise `dlq replay` would take these for topics that have lost their records, and refuse to go on. What no worker has
read from them is no longer done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial

import msgspec

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.dead_letter import RETRY_SUFFIX, SUFFIX, read_retry
from ...topics.headers import headers_of
from ...topics.partition_reader import read_to_end
from ...topics.topic_partition import TopicPartition
from ..run_state import RUNS_TOPIC, RunRegistry, RunState
from .dead_letter_reader import DeadLetterFilter, DeadLetterRecord
from .republish_run import change_state
from .republisher import Republisher

__all__ = ["forget_ends", "supersede", "take_back"]


def supersede(
    cluster: Cluster,
    topics: Collection[str],
    comes_again: Callable[[DeadLetterRecord], bool],
    *,
    runs_topic: str = RUNS_TOPIC,
) -> int:
    """Store that dead letters are done, as if `dlq replay` had re-published them; returns how many (blocking).

    Args:
        topics: existing dead-letter topics.
        comes_again: returns whether the record of a dead letter is processed again anyway. Only dead letters of agents
            are asked for.

    Raises:
        Stop: the state cannot be stored now; nothing is lost, and the call may be repeated.
    """
    admin, count = Admin(cluster), 0
    for topic in topics:
        republisher = Republisher(cluster, topic, runs_topic=runs_topic, admin=admin)
        found: dict[str, list[tuple[int, int, int]]] = {}
        # As in a re-publication: between two dead letters for one topic are only markers and dead letters for others.
        begins: dict[tuple[int, str], int] = {}
        for letter, done in republisher.read(DeadLetterFilter()):
            target = letter.retry_topic
            if target is None:
                continue
            begin = begins.get((letter.partition, target), 0)
            begins[letter.partition, target] = letter.offset + 1
            if not done and comes_again(letter):
                found.setdefault(target, []).append((letter.partition, begin, letter.offset + 1))
        for target, ranges in found.items():
            republisher.note_done(target, ranges)
            count += len(ranges)
    return count


def take_back(cluster: Cluster, unread: Mapping[TopicPartition, int], *, runs_topic: str = RUNS_TOPIC) -> None:
    """Store of dead letters that they are not done, because no worker has read their records (blocking).

    Args:
        unread: partitions of retry topics that are deleted, each with the offset up to which they were read.

    Raises:
        Stop: see `supersede`.
    """
    admin = Admin(cluster)
    waiting: Counter[tuple[str, str, bytes | None, bytes | None]] = Counter()
    for run in read_to_end(cluster, unread, admin.spans(unread)[1]):
        for message in run.messages:
            waiting[run.at.topic, str(read_retry(headers_of(message))[1]), message.key(), message.value()] += 1
    retried = {topic for topic, *_ in waiting}
    states = [state for state in RunRegistry(cluster, runs_topic).all() if state.topic in retried] if retried else []
    existing = admin.partitions(state.specs[0] for state in states if _is_of_letters(state))
    for topic in existing:
        republisher = Republisher(cluster, topic, runs_topic=runs_topic, admin=admin)
        read = republisher.read(DeadLetterFilter())
        sent = [letter for letter, done in read if done and letter.retry_topic in retried]
        lost: dict[str, list[tuple[int, int, int]]] = {}
        for letter in reversed(sent):  # of several for one record, the last one waits
            target = letter.retry_topic or ""
            record = target, str(letter.origin), letter.key, letter.value
            if waiting[record] > 0:
                waiting[record] -= 1
                lost.setdefault(target, []).append((letter.partition, letter.offset, letter.offset + 1))
        for target, ranges in lost.items():
            republisher.note_done(target, ranges, done=False)


def forget_ends(cluster: Cluster, topics: Collection[str], *, runs_topic: str = RUNS_TOPIC) -> None:
    """Let `dlq replay` go on with retry topics that are deleted and will be made anew (blocking).

    Which dead letters were re-published stays known. Other runs are left alone: their records are missing indeed.

    Raises:
        Stop: see `supersede`.
    """
    runs = RunRegistry(cluster, runs_topic)
    for state in runs.all():
        if state.topic in topics and state.topic.endswith(RETRY_SUFFIX) and _is_of_letters(state) and state.end_offsets:
            change_state(cluster, runs, state.run_id, partial(_without_ends, state))


def _without_ends(known: RunState, found: RunState | None) -> RunState:
    return msgspec.structs.replace(found or known, begin_offsets={}, end_offsets={})


def _is_of_letters(state: RunState) -> bool:
    return not state.format and len(state.specs) == 1 and state.specs[0].endswith(SUFFIX)
