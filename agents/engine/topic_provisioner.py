"""Creates the topics of an app: those that it declares at its start, and those that it needs in addition while it runs.

The latter are created before the epoch that sends to them is committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from ...topics.admin import Admin, TopicSpec, is_topic_name
from ...topics.dead_letter import HEADROOM_BYTES, LATE_SUFFIX, dead_letter_topic
from ...topics.durations import interval_s
from ...topics.errors import BadRecord, Stop, Usage, is_refusal, kafka_cause
from ...topics.partitioner_registry import PartitionerRegistry
from ...topics.partitioners import RangePartitioner
from ...topics.private_registry import publish
from ...topics.threads import daemon_thread
from ..tables.agent_window_table import AgentWindowTable
from ..tables.window_table import WindowTable
from .protocols import DeclaredTopic, Host, topics_read
from .rejected_records import RecordsRefused

__all__ = ["TopicProvisioner"]


class TopicProvisioner:
    """The topics of an app that exist, and those that must be created.

    Attributes:
        declared: names of topics that are known to exist.
        written: names of topics that the program names before it runs.
        refused: topic -> error, for topics that agents have named and that cannot be created.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.declared: set[str] = set()
        self.written: set[str] = set()
        self.refused: dict[str, BadRecord] = {}
        self._wanted: dict[str, tuple[TopicSpec, RangePartitioner | None]] = {}
        self._dead_letter_topics: dict[str, str] = {}

    # Topics that the program declares -------------------------------------------------------------------------------

    async def declare(self, topics: Iterable[DeclaredTopic]) -> None:
        """Create the topics that do not exist, in one call, and check the partitioners of those that exist.

        Creates nothing if `topic_allow_declare` is off.

        Raises:
            Usage: a topic exists with another partitioner.
        """
        host = self._host
        named = [(topic, name) for topic in topics for name in topic.topics]
        ranged = [
            (self.spec_of(topic, name), topic.partitioner) for topic, name in named if topic.partitioner is not None
        ]
        if ranged:
            registry, may_create = PartitionerRegistry(host.cluster, host.admin), host.conf.topic_allow_declare
            host.partitioners |= await daemon_thread(registry.agree if may_create else registry.compare, ranged)
        if host.private.topics:
            may_create = host.conf.topic_allow_declare
            await daemon_thread(partial(publish, host.cluster, host.admin, host.private, may_create=may_create))
        if not host.conf.topic_allow_declare:
            return
        new = [(topic, name) for topic, name in named if name not in self.declared]
        counts = await daemon_thread(host.admin.partitions) if any(topic.sized_like for topic, _ in new) else {}
        await self._create([self.spec_of(topic, name, counts) for topic, name in new])

    async def declare_once(self, topic: DeclaredTopic) -> None:
        """Create a topic if it does not exist; called before a client sends its first record to it."""
        if topic.get_topic_name() not in self.declared:
            await self.declare([topic])

    def spec_of(self, topic: DeclaredTopic, name: str, counts: Mapping[str, int] | None = None) -> TopicSpec:
        """Return the specification with which a topic is created.

        Args:
            counts: topic -> number of its partitions, for topics that exist.
        """
        conf = self._host.conf
        return TopicSpec(
            name,
            _partitions_of(topic, counts or {}) or conf.topic_partitions,
            topic.replicas or conf.topic_replication_factor,
            _config_of(topic),
        )

    async def create_topic(self, topic: str, partitions: int, replication: int) -> None:
        """Create a topic by name if it does not exist."""
        await self._create([TopicSpec(topic, partitions, replication)])

    async def _create(self, specs: list[TopicSpec]) -> None:
        if specs:
            admin = self._host.admin
            existing = await daemon_thread(admin.partitions, [spec.name for spec in specs])
            await daemon_thread(admin.create, [spec for spec in specs if spec.name not in existing])
            self.declared |= {spec.name for spec in specs}

    async def declare_changelogs(self) -> None:
        """Create missing changelogs, and compare all changelogs with the topics that the app reads.

        Raises:
            Usage: no topic that the app reads has the number of partitions of a changelog.
        """
        host = self._host
        counts = await daemon_thread(host.admin.partitions)
        sources = {name: counts[name] for topic in host.topics for name in topic.topics if name in counts}
        missing: list[TopicSpec] = []
        for table in host.tables:
            name = table.changelog_name
            most = max(sources.values(), default=host.conf.topic_partitions)
            like = 0 if table.sized_like is None else _most(table.sized_like.topics, counts)
            table.changelog_partitions = counts.get(name) or table.partitions or like or most
            if sources and table.changelog_partitions not in sources.values():
                listed = ", ".join(sorted(f"{topic} has {n}" for topic, n in sources.items()))
                raise Usage(
                    f"table {table.name}: its changelog {name} has {table.changelog_partitions} partitions, "
                    f"but {listed}",
                    hint="a table and the topics whose agents write to it need the same number of partitions; give "
                    "partitions=…, or delete the changelog to recompute the table",
                )
            if name not in counts:
                config = {"cleanup.policy": "compact", **table.config}
                replicas = host.conf.topic_replication_factor or 1
                missing.append(TopicSpec(name, table.changelog_partitions, replicas, config))
        await daemon_thread(host.admin.create, missing)

    def check_names(self) -> None:
        """Refuse topics whose name is too long for that of their dead letters, or of their late records.

        Otherwise the first of these would stop the worker.

        Raises:
            Usage: one is.
        """
        host = self._host
        made = [table.spec.late_topic for table in host.tables if isinstance(table, WindowTable)]
        by_agents = any(isinstance(table, AgentWindowTable) for table in host.tables)
        for agent in host.agents.values():
            topics = topics_read(agent)
            if agent.on_failure == "dead_letter":
                made += map(dead_letter_topic, topics)
            if by_agents:
                made += (f"{topic}{LATE_SUFFIX}" for topic in topics)
        for name in made:
            if name is not None and not is_topic_name(name):
                raise Usage(
                    f"the name of a topic is too long: {name}",
                    hint="Kafka allows 249 characters; failed records go to TOPIC.dlq, late ones to TOPIC.late",
                )

    # Topics that the running epoch needs ----------------------------------------------------------------------------

    def add(self, spec: TopicSpec, partitioner: RangePartitioner | None = None) -> None:
        """Request a topic, which `create` creates if it is missing.

        Args:
            partitioner: its range partitioner; None if it has none.

        Raises:
            BadRecord: the creation of this topic was refused before.
        """
        if spec.name in self.refused:
            raise self.refused[spec.name]
        if spec.name not in self.declared:
            self._wanted[spec.name] = spec, partitioner

    def add_dead_letter_topic(self, dead_letter_topic: str, topic: str) -> None:
        """Request the dead-letter topic `dead_letter_topic` of `topic`."""
        if dead_letter_topic not in self.declared:
            self._dead_letter_topics[dead_letter_topic] = topic
            self.add(TopicSpec(dead_letter_topic, 1, self._host.conf.topic_replication_factor or 1))

    @property
    def wanted(self) -> bool:
        """True if requested topics may be missing."""
        return bool(self._wanted)

    def create(self) -> None:
        """Create the requested topics that are missing (blocking).

        Raises:
            RecordsRefused: an agent has named a topic that does not exist and cannot be created, because
                `topic_allow_declare` is off or the cluster refuses it.
            Stop: the program has named such a topic, or a topic exists with another partitioner.
        """
        if not self._wanted:
            return
        wanted = list(self._wanted.values())
        admin = self._host.admin
        existing = admin.partitions([spec.name for spec, _ in wanted])
        missing = [spec for spec, _ in wanted if spec.name not in existing]
        if missing and not self._host.conf.topic_allow_declare:
            self._refuse_missing([spec.name for spec in missing])
        if declared := [(spec, partitioner) for spec, partitioner in wanted if partitioner is not None]:
            self._host.partitioners |= PartitionerRegistry(self._host.cluster, admin).agree(declared)
        self._make(
            admin, [self._sized(admin, spec) for spec, partitioner in wanted if partitioner is None and spec in missing]
        )
        self.declared |= {spec.name for spec, _ in wanted}
        for spec, _ in wanted:
            self._wanted.pop(spec.name, None)

    def _refuse_missing(self, names: list[str]) -> None:
        missing = ", ".join(sorted(names))
        if any(name in self.written or name in self._dead_letter_topics for name in names):
            raise Stop(
                f"no such topic: {missing}",
                hint="create it: topic_allow_declare is off, so workers do not create topics",
            )
        self._refuse({name: f"no such topic: {name}" for name in names}, "create it; topic_allow_declare is off")

    def _make(self, admin: Admin, specs: list[TopicSpec]) -> None:
        try:
            admin.create(specs)
            return
        except Stop as exc:
            if not _is_of_topic(exc):
                raise
        refused: dict[str, str] = {}
        for spec in specs:
            try:
                admin.create([spec])
            except Stop as exc:
                if not _is_of_topic(exc) or spec.name in self.written or spec.name in self._dead_letter_topics:
                    raise
                refused[spec.name] = str(exc.args[0])
        if refused:
            self._refuse(refused, "the name may be one that Kafka does not allow, or too like another")

    def _refuse(self, why: dict[str, str], hint: str) -> None:
        """Make each later send of an agent to these topics fail, and raise `RecordsRefused`."""
        for name, text in why.items():
            self._wanted.pop(name, None)
            self.refused[name] = BadRecord(text, hint=hint)
        raise RecordsRefused({}, list(why), "; ".join(why.values()), news=True)

    def _sized(self, admin: Admin, spec: TopicSpec) -> TopicSpec:
        """Return the specification of a topic; a dead-letter topic gets room for the largest record of its topic."""
        if spec.name not in self._dead_letter_topics:
            return spec
        most = int(admin.config(self._dead_letter_topics[spec.name])["max.message.bytes"])
        return replace(spec, config={"max.message.bytes": str(most + HEADROOM_BYTES)})


def _is_of_topic(error: Stop) -> bool:
    """Return whether the cluster refuses this topic but would accept another."""
    cause = kafka_cause(error)
    return cause is not None and is_refusal(cause)


def _partitions_of(topic: DeclaredTopic, counts: Mapping[str, int]) -> int | None:
    """Return the number of partitions that a topic is declared with, else that of the topic that it is sized like."""
    while topic.partitions is None:
        if topic.sized_like is None:
            return None
        topic = topic.sized_like
        if existing := _most(topic.topics, counts):
            return existing
    return topic.partitions


def _most(topics: Iterable[str], counts: Mapping[str, int]) -> int:
    """Return the largest number of partitions of some topics; 0 if none exists."""
    return max((counts.get(name, 0) for name in topics), default=0)


def _config_of(topic: DeclaredTopic) -> dict[str, str]:
    """Return the configuration with which a topic is created, by Kafka's names."""
    config = {str(k): str(v) for k, v in (topic.config or {}).items()}
    if topic.compacting:
        config["cleanup.policy"] = "compact,delete" if topic.deleting else "compact"
    if topic.retention is not None:
        config["retention.ms"] = str(
            int(interval_s(topic.retention, f"topic {topic.get_topic_name()}: retention") * 1000)
        )
    return config
