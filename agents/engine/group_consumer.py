"""The consumer group as the engine sees it: consumes records and handles assigned and revoked partitions.

Defaults, each measured on a real broker: the classic protocol, the range assignor, which keeps co-partitioned topics on
one worker, and static membership. With static membership, a worker that is killed and restarted has its partitions back
in 0.7 s; without it, the worker waits for the session timeout. `close()` of a static member does not leave the group,
so a worker that leaves calls `unsubscribe()` first.

With KIP-848's protocol (`group_protocol="consumer"`) assignments are incremental: partitions that an assignment does
not name keep their state, and their records are consumed without interruption.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from ...topics import client_watchdog, clock
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.errors import Hung, Stop, from_kafka, is_fatal, kafka_error, may_pass
from ...topics.topic_partition import TopicPartition
from ..assigned_partitions import Assignment
from .committed_offsets import ASK_S, SETTLED, assigned, begin_at_ends, commit_starts, refuse_open_transactions
from .settings import EngineSettings
from .topic_ids import TopicIds

__all__ = ["GroupConsumer", "is_at_end", "unread"]

logger = logging.getLogger(__name__)

_KEEP_ALIVE_S = 1.0
_LEAVE_S = 5.0
_LEAVE_WAIT_S = 0.05

# With KIP-848's protocol, a member that gets no partitions gets no callback. A member that gets some is told soon after
# it has joined. After this time without a callback, the worker concludes that it has none.
_NOTHING_S = 1.0

# Maximum number of records per poll: the value for the first poll, before the speed of the agents is known, and the
# smallest value.
_FIRST = 500
_LEAST = 16
_error_of = Message.error

# librdkafka's encoding of group metadata: this prefix, then the generation as four bytes.
_METADATA = b"CGMDv2:"


class PollSize:
    """The number of records of one poll, so that it keeps the agents busy for `EngineSettings.batch_s`.

    Attributes:
        records: at most so many.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings, self.records = settings, _FIRST

    def adjust(self, spent_s: float) -> None:
        """Adjust the number after a poll.

        Args:
            spent_s: how long agents took for its records, in seconds.
        """
        settings = self._settings
        if spent_s > settings.batch_s * 1.5:
            self.records = max(_LEAST, int(self.records * settings.batch_s / spent_s))
        elif spent_s < settings.batch_s / 2:
            self.records = min(settings.batch_records, self.records * 2)


class GroupConsumer:
    """The group membership of one worker.

    Args:
        topic_ids: reads the ids of assigned topics; None reads none.
        on_assign, on_revoke, on_lost: called only inside `consume`, `keep_alive` and `close`; `on_assign` also inside
            `reassign`.

    Attributes:
        kafka: the librdkafka consumer.
        owned: partitions that are assigned to this worker.
        topics: the subscribed topics.
        finished: why this client is unusable, so that the worker needs a new one; None while the client works. A static
            member is fenced when another process uses its identity. It may also be fenced without one: a broker that
            restarts may take the member's own second attempt to join for another process.
        fenced: whether the client is unusable because it was fenced or had a fatal error; False if it hangs.
        reached: with `notice_ends`, partition -> the offset of its end when it was last read to its end, transaction
            markers included. All records before this offset have been consumed.
        answered_s: when a broker last answered this client, on the monotonic clock.
        poll_size: how many records it consumes at a time.
    """

    def __init__(
        self,
        cluster: Cluster,
        group_id: str,
        instance: str,
        settings: EngineSettings,
        on_assign: Callable[[Assignment], None],
        on_revoke: Callable[[set[TopicPartition]], None],
        on_lost: Callable[[set[TopicPartition]], None],
        *,
        topic_ids: TopicIds | None = None,
    ) -> None:
        self._topic_ids = topic_ids
        self._cluster, self._group_id = cluster, group_id
        self._on_assign, self._on_revoke, self._on_lost = on_assign, on_revoke, on_lost
        self._settings = settings
        self.poll_size = PollSize(settings)
        self.owned: set[TopicPartition] = set()
        self.topics: list[str] = []
        self.finished: str | None = None
        self.fenced = False
        self.answered_s = clock.now_s()
        self.reached: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}  # seen, while records before them are in `_buffered`
        self._buffered: list[Any] = []
        self._paused: list[KafkaPartition] = []
        self._held, self._without = set[TopicPartition](), set[TopicPartition]()
        self._consumed: dict[TopicPartition, int] = {}
        self._incremental = settings.group_protocol == "consumer"
        self._closing = False
        self._rebalances = 0  # number of callbacks
        self._unassigned_since_s = self._rebalancing_since_s = 0.0
        self._polled_s = clock.now_s()
        self._admin = Admin(cluster, patience_s=settings.patience_s)
        self._warned_s = 0.0
        self.kafka: Any = cluster.consumer(
            group_id=group_id,
            **settings.membership(instance),
            max_poll_interval_ms=settings.max_poll_interval_ms,
            enable_auto_offset_store=False,
            # `assigned` chooses the beginning of a partition, and only if the group never committed an offset for it.
            auto_offset_reset="error",
            isolation_level="read_committed",
            enable_partition_eof=settings.notice_ends,
            # With the default of 1,000 ms, a fast consumer waits for half of its time.
            fetch_queue_backoff_ms=2,
            queued_min_messages=200_000,
            # 200,000 plain records rarely need more; packed batches do, and one second of them needs half of this.
            queued_max_messages_kbytes=32_768,
            fetch_wait_max_ms=100,
            topic_metadata_refresh_interval_ms=10_000,
            **settings.consumer_options,
        )

    def subscribe(self, topics: list[str]) -> None:
        """Join the group, or change the subscription."""
        self.topics = topics
        if self._incremental and not self.owned:
            self._unassigned_since_s = clock.now_s()
        if not self._closing:  # else closed while the app was still starting
            self.kafka.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def metadata(self) -> Any:
        """Return the current group metadata, which is part of every transaction."""
        return self.kafka.consumer_group_metadata()

    def consume(self) -> list[Any]:
        """Return the records that have arrived, without waiting.

        Raises:
            Stop: records were deleted before they were read, or another error that a human has to resolve.
        """
        self._polled_s = clock.now_s()
        if self._paused:
            paused, self._paused = self._paused, []
            self.kafka.resume([p for p in paused if TopicPartition(p.topic, p.partition) in self.owned - self._held])
        messages = self._consume(self.poll_size.records)
        if self._unassigned_since_s:
            self._look_whether_for_nothing()
        if self._buffered:
            messages, self._buffered = self._buffered + messages, []
        if self._ends:
            self.reached |= self._ends
            self._ends = {}
        return messages

    def _look_whether_for_nothing(self) -> None:
        """Report an assignment of no partitions if the group has more members than partitions: the worker is ready."""
        since_s = self._unassigned_since_s
        if clock.now_s() - since_s > _NOTHING_S and self.generation > 0:
            self._unassigned_since_s = 0.0
            self._on_assign(Assignment(began_s=since_s))

    def hold(self, partitions: set[TopicPartition]) -> None:
        """Consume no records of these partitions until the next call, and resume all others.

        A pause purges librdkafka's queue, so call this only if the benefit outweighs that cost.
        """
        if partitions != self._held:
            held, self._held = self._held, partitions & self._consumed.keys()
            self.kafka.pause([KafkaPartition(*at) for at in sorted(self._held - held)])
            self.kafka.resume([KafkaPartition(*at) for at in sorted(held - self._held)])

    def is_paused(self, at: TopicPartition) -> bool:
        """Return whether a partition is not consumed now, so that nothing is known of records that have come since."""
        return at in self._held or bool(self._paused)

    def keep_alive(self) -> None:
        """Remain a member of the group while agents are busy: poll if the last poll was a second ago.

        Partitions are paused for this, which purges librdkafka's queue.
        """
        if clock.now_s() - self._polled_s < _KEEP_ALIVE_S:
            return
        self._polled_s = clock.now_s()
        if self._consumed and not self._paused:
            self._paused = [KafkaPartition(*at) for at in self._consumed]
            self.kafka.pause(self._paused)
        self._buffered += self._consume(1)

    def _consume(self, most: int) -> list[Any]:
        try:
            messages: list[Any] = self.kafka.consume(most, 0)
        except KafkaException as exc:
            raise from_kafka(exc, "consume", servers=self._cluster.bootstrap_servers) from exc
        if messages:
            self.answered_s = clock.now_s()
        if any(map(_error_of, messages)):
            for message in messages:
                error = message.error()
                if error is not None:
                    self._sort(error, message)
            messages = [message for message in messages if message.error() is None]
        return messages

    def _sort(self, error: Any, message: Any) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:  # pyright: ignore[reportPrivateUsage]
            self._ends[TopicPartition(message.topic(), message.partition())] = message.offset()
            return
        removed = code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)  # pyright: ignore[reportPrivateUsage]
        if removed and self._topic_ids is not None:
            self._topic_ids.comparing([message.topic()])()
        if removed:
            raise Stop(
                f"group {self._group_id}: records of {message.topic()}[{message.partition()}] were deleted before they "
                f"were read ({error.str()})",
                hint="raise the topic's retention; to continue with the remaining records, set the group's offsets "
                "with "
                "kafka-consumer-groups --reset-offsets",
            )
        if is_fatal(error) or code == KafkaError.FENCED_INSTANCE_ID:
            self.finished, self.fenced = error.str(), True
        now = clock.now_s()
        if now - self._warned_s > 5:
            self._warned_s = now
            logger.warning("consumer: %s", error.str())

    def note_hung(self, error: BaseException) -> None:
        """Mark this client as finished if the error is `Hung`: what makes a producer hang affects the consumer too."""
        if isinstance(error, Hung) and self.finished is None:
            self.finished, self.fenced = str(error.args[0]), error.fenced
            logger.warning("%s: this worker replaces its consumer", self.finished)

    def check_coordinator(self) -> None:
        """Send a request to the group's coordinator (blocking); mark this client as finished if it hangs.

        Nothing is sent if a broker has answered within `HUNG_S`.
        """
        if not self.topics or clock.now_s() - self.answered_s < client_watchdog.HUNG_S:
            return
        try:
            self.kafka.committed([KafkaPartition(self.topics[0], 0)], timeout=ASK_S)
            self.answered_s = clock.now_s()
        except KafkaException as exc:
            silent_s = clock.now_s() - self.answered_s
            if not may_pass(kafka_error(exc)):
                self.answered_s = clock.now_s()
            elif silent_s > SETTLED * client_watchdog.HUNG_S and client_watchdog.answers(self._cluster):
                self.note_hung(Hung(f"the group's coordinator has not answered the consumer for {silent_s:.0f} s"))
        except RuntimeError:
            pass  # closed in the meantime

    def reassign(self) -> None:
        """Start again with the owned partitions, from their committed offsets (blocking)."""
        if self._incremental:
            self._resume()
            self.kafka.incremental_unassign([KafkaPartition(*at) for at in self._consumed])
            self._consumed, self._buffered = {}, []
        self._begin(self.kafka, [KafkaPartition(*at) for at in sorted(self.owned)])

    def begin_at_ends(
        self, uncommitted: Collection[TopicPartition], later: Collection[str]
    ) -> dict[TopicPartition, int]:
        """Call `committed_offsets.begin_at_ends` for the owned partitions (blocking) and return its offsets."""
        return begin_at_ends(self.kafka, uncommitted, self.owned, later, self._admin, self._cluster, self._settings)

    def commit_starts(self, starts: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        """Commit the start offsets of partitions (blocking) and return them; none if the group is rebalancing."""
        offsets = [KafkaPartition(*at, offset) for at, offset in starts.items()]
        return starts if commit_starts(self.kafka, offsets, self._cluster) else {}

    def consume_from(self, starts: Mapping[TopicPartition, int], *, without: Collection[TopicPartition] = ()) -> None:
        """Consume partitions whose tables are restored, in addition to those that are consumed already.

        librdkafka does not know a partition before this call. The alternative, to pause a partition when it is assigned
        and to resume it when its tables are restored, delays its first record by a second (measured; 3 ms this way).
        The classic protocol has only complete assignments, so it fetches the partitions that are consumed already again
        from their positions: call this rarely.

        Args:
            starts: partition -> offset of the first record to consume; partitions that are not owned are ignored.
            without: owned partitions that are not going to be consumed; a rebalance does not wait for them.
        """
        self._without = set(without)
        starts = {at: start for at, start in starts.items() if at in self.owned}
        if self._incremental:
            if starts:
                self.kafka.incremental_assign([KafkaPartition(*at, start) for at, start in starts.items()])
            self._consumed |= starts
            self._look_whether_settled()
            return
        self._resume()
        for at in self.kafka.position([KafkaPartition(*at) for at in self._consumed]) if self._consumed else ():
            if at.offset >= 0:  # else no record of it was consumed yet
                self._consumed[TopicPartition(at.topic, at.partition)] = at.offset
        self._consumed |= starts
        self.kafka.assign([KafkaPartition(*at, start) for at, start in self._consumed.items()])
        self._look_whether_settled()

    def stop(self, partitions: Collection[TopicPartition]) -> None:
        """Consume these partitions no longer; they stay assigned to this worker. Called outside of callbacks."""
        stopped = self._consumed.keys() & set(partitions)
        self._resume()
        self._consumed = {at: start for at, start in self._consumed.items() if at not in stopped}
        self._buffered = [m for m in self._buffered if (m.topic(), m.partition()) not in stopped]
        if self._incremental:
            self.kafka.incremental_unassign([KafkaPartition(*at) for at in stopped])
        else:
            self.consume_from({}, without=self._without | stopped)

    def _look_whether_settled(self) -> None:
        if self._consumed.keys() >= self.owned - self._without:
            self._rebalancing_since_s = 0.0

    def _resume(self) -> None:
        if self._paused or self._held:  # librdkafka keeps a pause even if the partition is revoked and assigned again
            self.kafka.resume([*self._paused, *(KafkaPartition(*at) for at in self._held)])
            self._paused, self._held = [], set[TopicPartition]()

    def close(self, *, keep_identity: bool = False) -> None:
        """Leave the group at once (blocking); with `keep_identity`, the partitions wait for the same worker instead."""
        self._closing = True
        try:
            if not keep_identity:
                self.kafka.unsubscribe()
            with contextlib.suppress(KafkaException):  # a client that is finished raises its fatal error
                self._serve_rebalances(leaving=not keep_identity)
            self.kafka.close()
        except (KafkaException, RuntimeError) as exc:
            logger.warning("leaving the group: %s", exc)

    def _serve_rebalances(self, *, leaving: bool) -> None:
        """Serve the rebalance events that wait in the client's queue, so that its `close` finds none there.

        A callback that `close` makes can wait for ever: librdkafka's thread ends the group at the same time and then
        does not answer `assign` (confluentinc/librdkafka#4884; seen with 2.16.0). The binding holds the GIL meanwhile,
        which stops all threads of the process, timers and signal handlers included.

        Args:
            leaving: the client has unsubscribed: wait until it holds no partitions and is no member.
        """
        deadline_s = clock.now_s() + _LEAVE_S
        wait_s = _LEAVE_WAIT_S if leaving else 0.0
        while clock.now_s() < deadline_s:
            served = self._rebalances
            self.kafka.consume(self.poll_size.records, wait_s)
            # With KIP-848's protocol a client keeps its member id, and its events follow `unsubscribe` at once.
            left = not leaving or not (self.owned or (not self._incremental and self.kafka.memberid()))
            if left and self._rebalances == served:
                return
            if left and not self._incremental:
                wait_s = 0.0  # no event follows the end of the membership

    # Status ---------------------------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> bool:
        """True if a rebalance is in progress: partitions were revoked, or are assigned and not active yet."""
        return self._rebalancing_since_s > 0

    @property
    def generation(self) -> int:
        """Generation of the group, or epoch of the member with KIP-848's protocol; -1 outside of the group."""
        metadata = bytes(self.metadata())
        known = metadata.startswith(_METADATA)
        return int.from_bytes(metadata[len(_METADATA) :][:4], sys.byteorder, signed=True) if known else -1

    def lags(self, committed: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Return partition -> offsets between its committed offset and its end in the last fetch; send no request."""
        lags: dict[TopicPartition, int] = {}
        for at in self.owned & committed.keys():
            end = _end_of(self, at)
            if end >= 0:
                lags[at] = max(0, end - committed[at])
        return lags

    # Callbacks ------------------------------------------------------------------------------------------------------

    def _assigned(self, kafka: Any, partitions: list[KafkaPartition]) -> None:
        self._rebalances += 1
        if self._closing:  # a rebalance was in progress: give its partitions away at once; offsets cannot be read now
            _hold(kafka, incremental=self._incremental)
        else:
            self._begin(kafka, partitions)

    def _begin(self, kafka: Any, partitions: list[KafkaPartition]) -> None:
        self._begin_rebalance()
        self._unassigned_since_s = 0.0
        try:
            # Read before the offsets: if a topic is recreated in between, the first commit notices it.
            ids = self._topic_ids.of({partition.topic for partition in partitions}) if self._topic_ids else {}
            assignment = assigned(self.kafka, partitions, self._admin, self._cluster, self._settings)
            assignment.ids = ids
        except Hung as exc:
            if not exc.fenced:
                refuse_open_transactions(self._admin, self._group_id, partitions)
            self.note_hung(exc)
            _hold(kafka, incremental=self._incremental)
            return
        self.answered_s = clock.now_s()
        assignment.began_s = self._rebalancing_since_s
        if self._incremental:  # in addition to the owned partitions
            self.owned |= assignment.starts.keys()
        else:
            self._resume()
            self._consumed, self._buffered = {}, []
            self._forget_ends(self.owned)
            self.owned = set(assignment.starts)
        _hold(kafka, incremental=self._incremental)  # `consume_from` starts the fetches
        self._on_assign(assignment)

    def _forget_ends(self, removed: set[TopicPartition]) -> None:
        for at in removed:
            self.reached.pop(at, None)
            self._ends.pop(at, None)

    def _begin_rebalance(self) -> None:
        self._rebalancing_since_s = self._rebalancing_since_s or clock.now_s()

    def _revoked(self, kafka: Any, partitions: list[KafkaPartition]) -> None:
        self._remove(kafka, partitions, self._on_revoke)

    def _lost(self, kafka: Any, partitions: list[KafkaPartition]) -> None:
        self._remove(kafka, partitions, self._on_lost)

    def _remove(
        self, kafka: Any, partitions: list[KafkaPartition], callback: Callable[[set[TopicPartition]], None]
    ) -> None:
        self._rebalances += 1
        self._begin_rebalance()
        removed = {TopicPartition(p.topic, p.partition) for p in partitions}
        kept = [m for m in self._buffered if (m.topic(), m.partition()) not in removed]
        self._buffered = kept if self._incremental else []
        if self.finished is None:  # else the worker starts again with a new client
            callback(removed)
        self.owned -= removed
        self._forget_ends(removed)
        self._resume()
        if self._incremental:
            flowing = removed & self._consumed.keys()
            self._consumed = {at: start for at, start in self._consumed.items() if at not in removed}
            kafka.incremental_unassign([KafkaPartition(*at) for at in flowing])
        else:
            self._consumed = {}
            kafka.unassign()


def is_at_end(group: GroupConsumer, at: TopicPartition) -> bool:
    """Return whether all of a partition was consumed: nothing lies behind what was read, not even an open transaction.
    Needs `notice_ends`; sends no request."""
    if at not in group.reached or group.is_paused(at):
        return False
    return 0 <= _end_of(group, at) <= group.reached[at]


def unread(group: GroupConsumer, at: TopicPartition, offset: int) -> int:
    """Return how many offsets of a partition were not read, as far as it is known; send no request.

    Args:
        offset: offset behind the last record that was processed. There may be only aborted ones behind it.
    """
    return max(0, _end_of(group, at) - max(offset, group.reached.get(at, 0)))


def _end_of(group: GroupConsumer, at: TopicPartition) -> int:
    """Return the offset of a partition's end as the last fetch has seen it; negative before that."""
    return group.kafka.get_watermark_offsets(KafkaPartition(at.topic, at.partition), cached=True)[1]


def _hold(kafka: Any, *, incremental: bool) -> None:
    """Fetch nothing of the new partitions (called in a callback); without this the binding would assign them."""
    if incremental:
        kafka.incremental_assign([])
    else:
        kafka.assign([])
