"""The consumer group as the engine sees it: records in, assignments told, revokes served.

Defaults, each measured on a real broker: classic protocol, range assignment (keeps co-partitioned topics on one
worker) and static membership, because a worker that is killed and started again then has its partitions back in 0.7 s;
without an identity it waits for the session timeout. A static member's `close()` does not leave the group, so leaving
is `unsubscribe()` first.

With KIP-848's protocol (`group_protocol="consumer"`) assignments are increments: what is not named stays as it is, and
its records flow on.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from ...topics import client_watchdog, clock
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.errors import Hung, Stop, from_kafka
from ...topics.topic_partition import TopicPartition
from ..assignment import Assignment
from .committed_offsets import ASK_S, SETTLED, assigned, begin_at_ends, may_pass
from .settings import EngineSettings
from .topic_ids import TopicIds

__all__ = ["GroupConsumer"]

logger = logging.getLogger(__name__)

_KEEP_ALIVE_S = 1.0

# A member by KIP-848's protocol is not called where there is nothing for it; it is told its share soon after it joined.
_NOTHING_S = 1.0

# Records in a poll: of the first, before it is known how fast the agents are, and the least.
_FIRST = 500
_LEAST = 16
_error_of = Message.error

# How librdkafka writes group metadata down: this, then the generation as four bytes.
_METADATA = b"CGMDv2:"

# A consumer's fatal error comes as a message whose error does not call itself fatal.
_FINISHED = frozenset({KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID})  # pyright: ignore[reportPrivateUsage]


class GroupConsumer:
    """Membership of one worker.

    Args:
        topic_ids: where the ids of assigned topics are asked for.
        on_assign, on_revoke, on_lost: called inside `consume`, `keep_alive` and `close`, nowhere else.

    Attributes:
        kafka: the librdkafka consumer.
        owned: partitions of this worker.
        topics: what is subscribed.
        finished: why this client can do nothing more, and the worker needs a new one; None while it works. A static
            member is fenced when another process has its identity, but also by itself: a broker that restarts may
            take its own second attempt to join for another.
        fenced: whether that is why.
        reached: with `notice_ends`, partition -> the offset at which it ended when it was last read to its end,
            transaction markers included. All before it has been consumed.
        answered_s: monotonic time of the last sign that somebody answers this client.
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
        self._batch_records = _FIRST
        self.owned: set[TopicPartition] = set()
        self.topics: list[str] = []
        self.finished: str | None = None
        self.fenced = False
        self.answered_s = clock.now_s()
        self.reached: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}  # noticed, while records before them wait in `_buffered`
        self._buffered: list[Any] = []
        self._paused: list[KafkaPartition] = []
        self._held: set[TopicPartition] = set()
        self._consumed: dict[TopicPartition, int] = {}
        self._incremental = settings.group_protocol == "consumer"
        self._closing = False
        self._unassigned_since_s = 0.0
        self._rebalancing_since_s = 0.0
        self._polled_s = clock.now_s()
        self._admin = Admin(cluster, patience_s=settings.patience_s)
        self._complained_s = 0.0
        self.kafka: Any = cluster.consumer(
            group_id=group_id,
            **settings.membership(instance),
            max_poll_interval_ms=settings.max_poll_interval_ms,
            enable_auto_offset_store=False,
            # Earliest is chosen by us, and only where nothing was ever committed: see `assigned`.
            auto_offset_reset="error",
            isolation_level="read_committed",
            enable_partition_eof=settings.notice_ends,
            # The default of 1,000 ms makes a fast consumer wait half of its time.
            fetch_queue_backoff_ms=2,
            queued_min_messages=200_000,
            # That many are rarely larger; packed batches are, and a second's worth of them takes half of this.
            queued_max_messages_kbytes=32_768,
            fetch_wait_max_ms=100,
            topic_metadata_refresh_interval_ms=10_000,
            **settings.consumer_options,
        )

    def subscribe(self, topics: list[str]) -> None:
        """Join the group, or change what is subscribed."""
        self.topics = topics
        if self._incremental and not self.owned:
            self._unassigned_since_s = clock.now_s()
        if not self._closing:  # told to end while the app was still starting
            self.kafka.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def metadata(self) -> Any:
        """The group metadata as it is now; part of every transaction."""
        return self.kafka.consumer_group_metadata()

    def tune(self, spent_s: float) -> None:
        """Agents took this long with what was polled: poll as many records as keep them busy for `batch_s`."""
        settings = self._settings
        if spent_s > settings.batch_s * 1.5:
            self._batch_records = max(_LEAST, int(self._batch_records * settings.batch_s / spent_s))
        elif spent_s < settings.batch_s / 2:
            self._batch_records = min(settings.batch_records, self._batch_records * 2)

    def consume(self) -> list[Any]:
        """What has arrived, without waiting.

        Raises:
            Stop: a committed offset is gone, or another error that needs a human.
        """
        self._polled_s = clock.now_s()
        if self._paused:
            paused, self._paused = self._paused, []
            self.kafka.resume([p for p in paused if TopicPartition(p.topic, p.partition) in self.owned - self._held])
        messages = self._consume(self._batch_records)
        if self._unassigned_since_s:
            self._look_whether_for_nothing()
        if self._buffered:
            messages, self._buffered = self._buffered + messages, []
        if self._ends:
            self.reached |= self._ends
            self._ends = {}
        return messages

    def _look_whether_for_nothing(self) -> None:
        """More members than partitions: who gets none is ready all the same."""
        since_s = self._unassigned_since_s
        if clock.now_s() - since_s > _NOTHING_S and self.generation > 0:
            self._unassigned_since_s = 0.0
            self._on_assign(Assignment(began_s=since_s))

    def hold(self, partitions: set[TopicPartition]) -> None:
        """Take no records of these until told otherwise. A pause purges librdkafka's queue: it has to be worth it."""
        if partitions != self._held:
            held, self._held = self._held, partitions & self._consumed.keys()
            self.kafka.pause([KafkaPartition(*at) for at in self._held - held])
            self.kafka.resume([KafkaPartition(*at) for at in held - self._held])

    def keep_alive(self) -> None:
        """Stay a member while agents are busy; partitions are paused for it, which purges librdkafka's queue."""
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
        gone = code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)  # pyright: ignore[reportPrivateUsage]
        if gone and self._topic_ids is not None:
            self._topic_ids.comparing([message.topic()])()
        if gone:
            raise Stop(
                f"group {self._group_id}: records of {message.topic()}[{message.partition()}] were deleted before they "
                f"were read ({error.str()})",
                hint="raise the topic's retention; to go on with what is there, set the group's offsets with "
                "kafka-consumer-groups --reset-offsets",
            )
        if error.fatal() or code in _FINISHED:
            self.finished, self.fenced = error.str(), True
        now = clock.now_s()
        if now - self._complained_s > 5:
            self._complained_s = now
            logger.warning("consumer: %s", error.str())

    def note_hung(self, error: BaseException) -> None:
        """What has made the worker's producer hang has happened to its consumer as well."""
        if isinstance(error, Hung) and self.finished is None:
            self.finished = str(error.args[0])
            logger.warning("%s: this worker takes a new one", self.finished)

    def check_coordinator(self) -> None:
        """Ask the coordinator something (blocking); noted as finished when it has not answered for too long."""
        if not self.topics or clock.now_s() - self.answered_s < client_watchdog.HUNG_S:
            return
        try:
            self.kafka.committed([KafkaPartition(self.topics[0], 0)], timeout=ASK_S)
            self.answered_s = clock.now_s()
        except KafkaException as exc:
            silent_s = clock.now_s() - self.answered_s
            if not may_pass(exc):
                self.answered_s = clock.now_s()
            elif silent_s > SETTLED * client_watchdog.HUNG_S and client_watchdog.answers(self._cluster):
                self.note_hung(Hung(f"the group's coordinator has not answered the consumer for {silent_s:.0f} s"))
        except RuntimeError:
            pass  # closed meanwhile

    def reassign(self) -> None:
        """Begin anew with the partitions there are, from what is committed now (blocking)."""
        if self._incremental:
            self._resume()
            self.kafka.incremental_unassign([KafkaPartition(*at) for at in self._consumed])
            self._consumed, self._buffered = {}, []
        self._begin(self.kafka, [KafkaPartition(*at) for at in self.owned])

    def begin_at_ends(
        self, uncommitted: Collection[TopicPartition], later: Collection[str]
    ) -> dict[TopicPartition, int]:
        """As the function of that name (blocking)."""
        return begin_at_ends(self.kafka, uncommitted, self.owned, later, self._admin, self._cluster, self._settings)

    def consume_from(self, starts: Mapping[TopicPartition, int]) -> None:
        """Let the records of partitions flow whose tables are restored, beside those that flow already.

        Until then librdkafka does not have them: a partition that is paused as it is assigned, and resumed when its
        tables are restored, stays silent for a second (measured; 3 ms this way). The classic protocol knows only whole
        assignments, so those that flow are fetched again from where they are: call it rarely.
        """
        starts = {at: start for at, start in starts.items() if at in self.owned}
        if self._incremental:
            if starts:
                self.kafka.incremental_assign([KafkaPartition(*at, start) for at, start in starts.items()])
            self._consumed |= starts
            self._look_whether_settled()
            return
        self._resume()
        for at in self.kafka.position([KafkaPartition(*at) for at in self._consumed]) if self._consumed else ():
            if at.offset >= 0:  # else nothing of it was consumed yet
                self._consumed[TopicPartition(at.topic, at.partition)] = at.offset
        self._consumed |= starts
        self.kafka.assign([KafkaPartition(*at, start) for at, start in self._consumed.items()])
        self._look_whether_settled()

    def _look_whether_settled(self) -> None:
        if self._consumed.keys() >= self.owned:
            self._rebalancing_since_s = 0.0

    def _resume(self) -> None:
        if self._paused or self._held:  # librdkafka remembers a pause, also of a partition that goes and comes back
            self.kafka.resume([*self._paused, *(KafkaPartition(*at) for at in self._held)])
            self._paused, self._held = [], set()

    def close(self, *, keep_identity: bool = False) -> None:
        """Leave the group at once (blocking); with `keep_identity` the partitions wait for the same worker instead."""
        self._closing = True
        try:
            if not keep_identity:
                self.kafka.unsubscribe()
                deadline = clock.now_s() + 5
                while self.owned and clock.now_s() < deadline:
                    self.kafka.consume(1, 0.05)
            self.kafka.close()
        except (KafkaException, RuntimeError) as exc:
            logger.warning("leaving the group: %s", exc)

    # What can be seen -----------------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> bool:
        """Whether partitions are on their way: given up, or assigned and not flowing yet."""
        return self._rebalancing_since_s > 0

    @property
    def generation(self) -> int:
        """Of the group, or of the member where the protocol is KIP-848's; -1 outside of it."""
        metadata = bytes(self.metadata())
        known = metadata.startswith(_METADATA)
        return int.from_bytes(metadata[len(_METADATA) :][:4], sys.byteorder, signed=True) if known else -1

    def lags(self, committed: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Partition -> offsets between what is committed and the end that the last fetch saw; nothing is asked."""
        lags: dict[TopicPartition, int] = {}
        for at in self.owned & committed.keys():
            _, end = self.kafka.get_watermark_offsets(KafkaPartition(*at), cached=True)
            if end >= 0:
                lags[at] = max(0, end - committed[at])
        return lags

    # Callbacks ------------------------------------------------------------------------------------------------------

    def _assigned(self, kafka: Any, partitions: list[KafkaPartition]) -> None:
        if self._closing:  # a rebalance was under way: what comes now goes at once, and nobody can be asked any more
            self._hold(kafka)
        else:
            self._begin(kafka, partitions)

    def _begin(self, kafka: Any, partitions: list[KafkaPartition]) -> None:
        self._begin_rebalance()
        self._unassigned_since_s = 0.0
        try:
            # Before the offsets: what is made anew in between is noticed at the first commit.
            ids = self._topic_ids.of({partition.topic for partition in partitions}) if self._topic_ids else {}
            assignment = assigned(self.kafka, partitions, self._admin, self._cluster, self._settings)
            assignment.ids = ids
        except Hung as exc:
            self.note_hung(exc)
            self._hold(kafka)
            return
        self.answered_s = clock.now_s()
        assignment.began_s = self._rebalancing_since_s
        if self._incremental:  # beside what is there
            self.owned |= assignment.starts.keys()
        else:
            self._resume()
            self._consumed, self._buffered = {}, []
            self._forget_ends(self.owned)
            self.owned = set(assignment.starts)
        self._hold(kafka)  # until `consume_from`
        self._on_assign(assignment)

    def _hold(self, kafka: Any) -> None:
        """In a callback: nothing of what has come is fetched; without a word the binding would assign it."""
        if self._incremental:
            kafka.incremental_assign([])
        else:
            kafka.assign([])

    def _forget_ends(self, gone: set[TopicPartition]) -> None:
        for at in gone:
            self.reached.pop(at, None)
            self._ends.pop(at, None)

    def _begin_rebalance(self) -> None:
        self._rebalancing_since_s = self._rebalancing_since_s or clock.now_s()

    def _revoked(self, kafka: Any, partitions: list[KafkaPartition]) -> None:
        self._remove(kafka, partitions, self._on_revoke)

    def _lost(self, kafka: Any, partitions: list[KafkaPartition]) -> None:
        self._remove(kafka, partitions, self._on_lost)

    def _remove(
        self, kafka: Any, partitions: list[KafkaPartition], tell: Callable[[set[TopicPartition]], None]
    ) -> None:
        self._begin_rebalance()
        gone = {TopicPartition(p.topic, p.partition) for p in partitions}
        kept = [m for m in self._buffered if (m.topic(), m.partition()) not in gone]
        self._buffered = kept if self._incremental else []
        if self.finished is None:  # else all is begun anew
            tell(gone)
        self.owned -= gone
        self._forget_ends(gone)
        self._resume()
        if self._incremental:
            flowing = gone & self._consumed.keys()
            self._consumed = {at: start for at, start in self._consumed.items() if at not in gone}
            kafka.incremental_unassign([KafkaPartition(*at) for at in flowing])
        else:
            self._consumed = {}
            kafka.unassign()
