"""Administration of topics: create, delete, describe, and the offsets at which their partitions begin and end."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
)
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec, ResourceType

from . import client_watchdog, clock
from .client_options import nearest_option
from .cluster import Cluster, is_secret
from .errors import AnabranchError, Stop, Usage, from_kafka, is_unreachable, kafka_error, passes
from .spelling import did_you_mean
from .topic_partition import TopicPartition

__all__ = ["Admin", "TopicSpec", "answer_of", "is_topic_name"]

TIMEOUT_S = 15.0

# How long partitions of a new topic may be without a leader: a controller that has just started takes its time.
_LEADERS_S = 60.0
_LATEST: Any = OffsetSpec.latest()
_EARLIEST: Any = OffsetSpec.earliest()
_AGAIN_S = 0.05

# How long a topic that was there a moment ago may be missing from the brokers' lists before it counts as deleted.
_DELETED_S = 10.0
_ID_S = 5.0
_LATE_S = 3.0

# A broker's answer when no record is that late; librdkafka's own "no offset" is another number.
_NO_RECORD = -1

# Errors of a connection that explain why a reachable broker does not answer.
_CONNECTION = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._RESOLVE})  # pyright: ignore[reportPrivateUsage]

# The answers for a topic that does not exist or may not be seen.
_NOT_THERE = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """The description of a topic to create.

    Attributes:
        config: topic configuration under Kafka's names; `retention.ms=-1` and `CreateTime` unless it says otherwise,
            because Kafka deletes by record timestamp and a replay carries old ones.
    """

    name: str
    partitions: int
    replicas: int = 1
    config: Mapping[str, str] = field(default_factory=dict[str, str])

    def full_config(self) -> dict[str, str]:
        """Return the configuration, with defaults for what the user has not set."""
        return {"retention.ms": "-1", "message.timestamp.type": "CreateTime", **self.config}


_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def is_topic_name(name: str) -> bool:
    """Return whether Kafka allows a topic of this name."""
    return _NAME.fullmatch(name) is not None and name not in (".", "..")


def answer_of(future: Future[T], within_s: float | None = None) -> T:
    """Return the answer to a request (blocking).

    librdkafka never answers some requests whose broker goes away, whatever their timeout (seen with 2.16.0: the offsets
    of partitions, after a single broker was away for 5 s).

    Args:
        within_s: how long to wait, longer than the timeout of the request; None fits `TIMEOUT_S`.

    Raises:
        KafkaException: the request has failed; `_TIMED_OUT` if there is no answer.
    """
    try:
        return future.result(TIMEOUT_S + _LATE_S if within_s is None else within_s)
    except TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer")) from None  # pyright: ignore[reportPrivateUsage]


class _ConnectionErrors:
    """The last reason why a reachable broker refused a connection. Calls only time out; librdkafka reports it apart.

    A separate object, because a client that refers to its owner is closed only by the garbage collector.
    """

    def __init__(self) -> None:
        self.reason = ""

    def note(self, error: KafkaError) -> None:
        """Keep an error of a connection; librdkafka's `error_cb`."""
        if error.code() in _CONNECTION or "security.protocol" in error.str():
            self.reason = error.str()


def _refused(exc: KafkaException, options: Mapping[str, str]) -> AnabranchError:
    """Return an error that names the option that librdkafka refuses."""
    for name, value in options.items():
        try:
            # librdkafka checks the option while it makes the client, which needs no broker.
            Cluster("localhost", {"log_level": "0", name: value}).admin()
        except KafkaException as one:
            message = kafka_error(one).str()
            if message.startswith("No such configuration property"):
                return Usage(f"-X {name}: librdkafka has no such option", hint=nearest_option(name, options))
            shown = "" if is_secret(name) else f"={value}"
            return Usage(f"-X {name}{shown}: {message}", hint=nearest_option(name, options))
    message = kafka_error(exc).str()
    for name in options:  # some belong together, such as a file and its password
        if name in message and not is_secret(name):
            return Usage(
                f"-X {name}={options[name]}: {message}", hint="check the value; if it is a file, does it exist?"
            )
    return from_kafka(exc, "Kafka client")


class Admin:
    """Blocking calls about topics. Each raises `Stop` with a hint if no broker answers.

    Args:
        patience_s: how long a call is repeated while a broker is away or does not know a new topic yet.
    """

    def __init__(self, cluster: Cluster, *, patience_s: float = TIMEOUT_S) -> None:
        self._cluster, self._patience_s = cluster, patience_s
        self._errors = _ConnectionErrors()
        self._kafka = self._client()

    def _client(self) -> AdminClient:
        try:
            return self._cluster.admin(error_cb=self._errors.note)
        except KafkaException as exc:
            raise _refused(exc, self._cluster.options) from exc

    def no_topic(self, topic: str, also: Iterable[str] = (), *, hint: str = "anabranch topics") -> Usage:
        """Return the error for a topic that does not exist (blocking); its hint names the most similar one.

        Args:
            also: names of topics that would be created.
            hint: used if no name is similar.
        """
        names = {name for name in (*self.partitions(), *also) if not name.startswith("__")}
        hint = did_you_mean(topic, names, hint)
        return Usage(f"there is no topic {topic} on {self._cluster.bootstrap_servers}", hint=hint)

    def _sorted(self, exc: KafkaException, doing: str) -> AnabranchError:
        self._kafka.poll(0)  # calls `note`
        return from_kafka(exc, doing, servers=self._cluster.bootstrap_servers, why=self._errors.reason)

    def partitions(self, topics: Iterable[str] | None = None, *, timeout_s: float | None = None) -> dict[str, int]:
        """Return topic -> number of partitions, for those of `topics` (None: of all topics) that exist.

        Args:
            timeout_s: the most to wait; None repeats the call for `patience_s`.
        """
        doing = "list topics"
        if timeout_s is None:
            found = self._patiently(doing, lambda: self._kafka.list_topics(timeout=TIMEOUT_S).topics)
        else:
            deadline = clock.now_s() + timeout_s
            while True:
                try:
                    found = self._kafka.list_topics(timeout=max(_AGAIN_S, deadline - clock.now_s())).topics
                    break
                except KafkaException as exc:  # a broker that restarts drops the connection at once
                    if not is_unreachable(kafka_error(exc)) or clock.now_s() > deadline:
                        raise self._sorted(exc, doing) from exc
                    clock.sleep(_AGAIN_S)
        wanted = None if topics is None else set(topics)
        return {
            name: len(topic.partitions)
            for name, topic in found.items()
            if topic.error is None and (wanted is None or name in wanted)
        }

    def existing(self, topics: Iterable[str]) -> dict[str, int]:
        """Return topic -> number of partitions of those that exist, without listing other topics."""
        names = list(topics)
        if not names:
            return {}

        def ask() -> dict[str, int]:
            found: dict[str, int] = {}
            asked = TopicCollection(names)
            for name, future in self._kafka.describe_topics(asked, request_timeout=TIMEOUT_S).items():
                try:
                    found[name] = len(answer_of(future).partitions)
                except KafkaException as exc:
                    if kafka_error(exc).code() not in _NOT_THERE:
                        raise
            return found

        return self._patiently("describe topics", ask)

    def create(self, specs: Iterable[TopicSpec]) -> set[str]:
        """Create the topics that do not exist; return the names of those that were created here.

        Waits until each new partition has a leader that accepts records, so that the next call finds it.
        """
        left = {s.name: s for s in specs}
        counts = {name: spec.partitions for name, spec in left.items()}
        created: set[str] = set()
        waited_for: set[str] = set()

        def ask() -> None:
            new = [
                NewTopic(s.name, num_partitions=s.partitions, replication_factor=s.replicas, config=s.full_config())
                for s in left.values()
            ]
            asked = self._kafka.create_topics(new, operation_timeout=TIMEOUT_S, request_timeout=TIMEOUT_S)
            failed: list[KafkaException] = []
            for name, future in asked.items():
                try:
                    answer_of(future)
                    created.add(name)
                except KafkaException as exc:
                    error = kafka_error(exc)
                    if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                        failed.append(exc)
                        if is_unreachable(error):
                            waited_for.add(name)  # it may have been created nevertheless
                        continue
                del left[name]
            if failed:
                raise failed[0]

        if left:
            self._patiently(f"create topic {', '.join(left)}", ask)
        made = created | waited_for
        self._await_leaders({name: counts[name] for name in created})
        # A new leader may not know that it is one, and refuses the first records that it gets.
        self.begins([KafkaPartition(name, partition) for name in made for partition in range(counts[name])])
        return created

    def delete(self, topics: Iterable[str]) -> None:
        """Delete topics; those that do not exist are ignored.

        Waits until the brokers no longer list them: who took them for existing then would not create them anew.
        """
        names = list(topics)
        if not names:
            return
        for name, future in self._kafka.delete_topics(names, operation_timeout=TIMEOUT_S).items():
            try:
                answer_of(future)
            except KafkaException as exc:
                if kafka_error(exc).code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise from_kafka(exc, f"delete topic {name}") from exc
        deadline_s = clock.now_s() + TIMEOUT_S
        while self.partitions(names) and clock.now_s() < deadline_s:
            clock.sleep(_AGAIN_S)

    def has_group(self, group: str) -> bool:
        """Return whether a consumer group of this name exists."""
        listed = self._patiently("list groups", lambda: answer_of(self._kafka.list_consumer_groups()))
        return any(found.group_id == group for found in listed.valid or ())

    def delete_group(self, group: str) -> None:
        """Delete a consumer group that has no members.

        Raises:
            Stop: it has members.
        """
        future = self._kafka.delete_consumer_groups([group], request_timeout=TIMEOUT_S)[group]
        try:
            answer_of(future)
        except KafkaException as exc:
            if kafka_error(exc).code() == KafkaError.NON_EMPTY_GROUP:
                raise Stop(f"group {group} has members", hint="stop its workers first") from exc
            if kafka_error(exc).code() != KafkaError.GROUP_ID_NOT_FOUND:
                raise from_kafka(exc, f"delete group {group}", servers=self._cluster.bootstrap_servers) from exc

    def members(self, group: str) -> dict[str, set[tuple[str, int]]] | None:
        """Return member -> its partitions, in the order of range assignors; None while the group rebalances.

        A static member is named by its instance id, another one by its client id.
        """
        described = self._patiently(
            f"describe group {group}",
            lambda: answer_of(self._kafka.describe_consumer_groups([group], request_timeout=TIMEOUT_S)[group]),
        )
        if described.state != ConsumerGroupState.STABLE:
            return None
        return {
            member.group_instance_id or member.client_id: {
                (at.topic, at.partition) for at in (member.assignment.topic_partitions if member.assignment else ())
            }
            for member in sorted(described.members, key=lambda member: member.group_instance_id or member.member_id)
        }

    def cluster_id(self) -> str:
        """Return the id that the cluster was given when it was formatted."""
        return self._patiently("find the cluster", lambda: str(self._kafka.list_topics(timeout=TIMEOUT_S).cluster_id))

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """Return topic -> id. A topic that is deleted and created again has another id."""
        wanted = TopicCollection(list(topics))

        def ask() -> dict[str, str]:
            described = self._kafka.describe_topics(wanted, request_timeout=TIMEOUT_S)
            return {name: str(answer_of(future).topic_id) for name, future in described.items()}

        return self._patiently("describe topics", ask)

    def ask_topic_ids(self, topics: Iterable[str]) -> Callable[[], dict[str, str]]:
        """Request topic ids. The function that is returned blocks for the answer: the ids of the topics that exist."""
        described = self._kafka.describe_topics(TopicCollection(list(topics)), request_timeout=_ID_S)
        deadline_s = clock.now_s() + _ID_S + _LATE_S

        def answer() -> dict[str, str]:
            found: dict[str, str] = {}
            for name, future in described.items():
                with contextlib.suppress(KafkaException):
                    found[name] = str(answer_of(future, max(0.0, deadline_s - clock.now_s())).topic_id)
            if described and not any(future.done() for future in described.values()):
                self._kafka = self._client()  # this one hangs
            return found

        return answer

    def spans(
        self, partitions: Iterable[tuple[str, int]]
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Return the offsets of `begins` and of `ends`."""
        wanted = [KafkaPartition(*at) for at in partitions]
        return self.begins(wanted), self.ends(wanted)

    def config(self, topic: str) -> dict[str, str]:
        """Return a topic's configuration in force, defaults included."""
        resource = ConfigResource(ResourceType.TOPIC, topic)
        entries = self._patiently(
            f"describe topic {topic}",
            lambda: answer_of(self._kafka.describe_configs([resource], request_timeout=TIMEOUT_S)[resource]),
        )
        return {name: str(entry.value) for name, entry in entries.items()}

    def in_open_transactions(self, group: str, partitions: Iterable[KafkaPartition]) -> list[TopicPartition]:
        """Return the partitions whose offsets for a group are part of an open transaction (blocking, some seconds).

        A new client asks. Empty if it gets no answer.
        """
        client = self._cluster.with_options({"log_level": "0"}).admin()
        wanted = ConsumerGroupTopicPartitions(group, [KafkaPartition(p.topic, p.partition) for p in partitions])
        try:
            asked = client.list_consumer_group_offsets([wanted], require_stable=True, request_timeout=_ID_S)
            found = answer_of(asked[group]).topic_partitions or []
        except KafkaException:
            return []
        unstable = KafkaError.UNSTABLE_OFFSET_COMMIT
        return [TopicPartition(p.topic, p.partition) for p in found if p.error and p.error.code() == unstable]

    def ends(self, partitions: Iterable[KafkaPartition], *, committed: bool = False) -> dict[TopicPartition, int]:
        """Return the end offset of each partition: behind its last record or transaction marker.

        Args:
            committed: False includes records of open transactions; True stops at the first open one.
        """
        return self._offsets(partitions, _LATEST, committed=committed)

    def begins(self, partitions: Iterable[KafkaPartition]) -> dict[TopicPartition, int]:
        """Return the offset of the first record of each partition that still exists."""
        return self._offsets(partitions, _EARLIEST, committed=False)

    def delete_records(self, before: Mapping[TopicPartition, int]) -> set[TopicPartition]:
        """Delete the records below an offset of each partition.

        Returns:
            The partitions whose records this client may not delete.
        """
        forbidden: set[TopicPartition] = set()
        asked = [KafkaPartition(at.topic, at.partition, offset) for at, offset in before.items()]
        futures = self._kafka.delete_records(asked, request_timeout=TIMEOUT_S, operation_timeout=TIMEOUT_S)
        for at, future in futures.items():
            try:
                answer_of(future)
            except KafkaException as exc:
                if kafka_error(exc).code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise self._sorted(exc, f"delete records of {at.topic}") from exc
                forbidden.add(TopicPartition(at.topic, at.partition))
        return forbidden

    def since(self, partitions: Iterable[tuple[str, int]], time_ms: int) -> dict[TopicPartition, int]:
        """Return the offset of each partition's first record or transaction marker at or after a time, else its end."""
        wanted = [KafkaPartition(*at) for at in partitions]
        found = self._offsets(wanted, OffsetSpec.for_timestamp(time_ms), committed=False, none_is=_NO_RECORD)
        ends = self.ends(wanted)
        return {at: ends[at] if offset < 0 else offset for at, offset in found.items()}

    def _offsets(
        self, partitions: Iterable[KafkaPartition], spec: OffsetSpec, *, committed: bool, none_is: int | None = None
    ) -> dict[TopicPartition, int]:
        """Return the offsets that the brokers list.

        Args:
            none_is: the negative offset with which a broker answers that there is no such record.

        Raises:
            Stop: a topic has been deleted.
        """
        request = {KafkaPartition(p.topic, p.partition): spec for p in partitions}
        if not request:
            return {}
        isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED

        def ask() -> dict[TopicPartition, int]:
            futures = self._kafka.list_offsets(request, isolation_level=isolation, request_timeout=TIMEOUT_S)
            found = {TopicPartition(tp.topic, tp.partition): answer_of(future).offset for tp, future in futures.items()}
            if any(offset < 0 and offset != none_is for offset in found.values()):
                # Seen while a partition's leader moved: no error, and no offset either.
                raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
            return found

        return self._patiently("list offsets", ask, {tp.topic for tp in request})

    def _patiently(self, doing: str, ask: Callable[[], T], topics: Set[str] = frozenset()) -> T:
        """Repeat a call while a broker is away or does not know a new topic yet.

        Args:
            topics: the topics without which the call cannot succeed.
        """
        began = renewed = clock.now_s()
        missing_s: float | None = None  # since when a topic is not listed
        while True:
            try:
                return ask()
            except KafkaException as exc:
                # Not every broker knows the leader of a new topic yet, nor a broker that has come back (_NOENT).
                error = kafka_error(exc)
                passing = passes(error) or is_unreachable(error) or error.code() == KafkaError._NOENT  # pyright: ignore[reportPrivateUsage]
                # A broker that has just started has not been unfenced by its controller.
                passing = passing or "brokers are currently fenced" in error.str()
                now = clock.now_s()
                if not passing or now > began + self._patience_s:
                    raise self._sorted(exc, doing) from exc
                if now > renewed + client_watchdog.HUNG_S / 2:  # the client may hang
                    self._kafka, renewed = self._client(), now
                clock.sleep(_AGAIN_S)
                # Without new metadata librdkafka would send the former leader's epoch for ever.
                with contextlib.suppress(KafkaException):
                    listed = self._kafka.list_topics(timeout=TIMEOUT_S).topics
                    missing = topics - {name for name, topic in listed.items() if topic.error is None}
                    if not missing:
                        missing_s = None
                    elif missing_s is None:
                        missing_s = clock.now_s()
                    elif clock.now_s() > missing_s + _DELETED_S:
                        raise Stop(
                            f"{doing}: there is no longer a topic {', '.join(sorted(missing))}",
                            hint="was it deleted just now? start again: a worker creates the topics that it writes",
                        ) from exc

    def _await_leaders(self, topics: Mapping[str, int]) -> None:
        deadline = clock.now_s() + _LEADERS_S
        waiting = dict(topics)
        while waiting:
            found = self._patiently("list topics", lambda: self._kafka.list_topics(timeout=TIMEOUT_S).topics)
            for name, partitions in list(waiting.items()):
                topic = found.get(name)
                if (
                    topic
                    and len(topic.partitions) == partitions
                    and all(p.leader >= 0 for p in topic.partitions.values())
                ):
                    del waiting[name]
            if waiting:
                if clock.now_s() > deadline:
                    raise Stop(f"topics without a leader: {', '.join(waiting)}", hint="see the broker's log")
                clock.sleep(0.01)
