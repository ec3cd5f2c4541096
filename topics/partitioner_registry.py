"""Which topics are not spread by hash: the compacted topic of plans, beside the topics it speaks of.

    topic   anabranch-plans, one partition, cleanup.policy=compact
    key     topic name
    value   JSON {"topic_id": …, "splits": [base64 of each split point]}

A plan belongs to a topic's id, so one that is deleted and made anew has none. It is kept once, when the topic is made,
and cannot be changed: records that are there would lie in the wrong place. A topic without a plan is spread by hash.
Producers that do not know of plans put records elsewhere; every part of this project looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from confluent_kafka import KafkaException

from .admin import Admin, TopicSpec
from .cluster import Cluster
from .errors import Stop, Usage, from_kafka
from .partition_reader import read_to_end
from .partitioners import HashPartitioner, Plan, RangePartitioner

__all__ = ["PLANS_TOPIC", "PartitionerRegistry"]

PLANS_TOPIC = "anabranch-plans"
_FLUSH_S = 30.0


class _Kept(msgspec.Struct, frozen=True):
    topic_id: str
    splits: tuple[bytes, ...]


class PartitionerRegistry:
    """The plans of a cluster's topics (blocking).

    Args:
        admin: who asks, where somebody is there already.
    """

    def __init__(self, cluster: Cluster, admin: Admin | None = None) -> None:
        self._cluster = cluster
        self._admin = admin or Admin(cluster)

    def of(self, topics: Iterable[str] | None = None) -> dict[str, RangePartitioner]:
        """Topic -> its plan, for those of `topics` (all where None) that are spread by range.

        Raises:
            Stop: the plan of one of them cannot be read.
        """
        if PLANS_TOPIC not in self._admin.partitions([PLANS_TOPIC]):
            return {}
        kept = self._kept()
        there = self._admin.partitions(kept if topics is None else set(topics) & kept.keys())
        ids = self._admin.topic_ids(there) if there else {}
        plans: dict[str, RangePartitioner] = {}
        for topic in there:
            found = kept[topic]
            if isinstance(found, str):
                raise Stop(
                    f"topic {topic}: its plan cannot be read: {found}",
                    hint="without it nobody knows where its keys belong. Send its last good plan again, or, if it is "
                    "spread by hash, a tombstone, with the topic's name as the key",
                )
            if found.topic_id == ids[topic]:
                plans[topic] = RangePartitioner(found.splits)
        return plans

    def check(self, topic: str, partitions: int, declared: Plan | None) -> Plan:
        """The plan of a topic that exists.

        Raises:
            Usage: it is not the declared one.
        """
        found = self.of([topic]).get(topic, HashPartitioner(partitions))
        if declared is None or declared == found:
            return found
        if (
            found == HashPartitioner(declared.partitions)
            and isinstance(declared, RangePartitioner)
            and self._is_new(topic, found)
        ):
            self._keep(topic, declared)  # who made it did not live to write its plan down
            return declared
        raise _other_plan(topic, found, declared)

    def create(self, spec: TopicSpec, plan: Plan) -> None:
        """Make a topic that does not exist, and keep its plan.

        Raises:
            Usage: somebody else made it meanwhile, with another plan.
            Stop: the plan cannot be written.
        """
        if self._admin.create([spec]) and isinstance(plan, RangePartitioner):
            self._keep(spec.name, plan)
        else:
            self.check(spec.name, spec.partitions, plan)

    def agree(self, declared: Sequence[tuple[TopicSpec, RangePartitioner]]) -> dict[str, RangePartitioner]:
        """Make or check declared topics; their plans.

        Raises:
            Usage: one exists and is spread otherwise.
        """
        there = self._admin.partitions([spec.name for spec, _ in declared])
        for spec, plan in declared:
            if spec.name in there:
                self.check(spec.name, there[spec.name], plan)
            else:
                self.create(spec, plan)
        return {spec.name: plan for spec, plan in declared}

    def compare(self, declared: Sequence[tuple[TopicSpec, RangePartitioner]]) -> dict[str, RangePartitioner]:
        """As `agree`, of topics that exist; nothing is made or written."""
        found = self.of([spec.name for spec, _ in declared])
        there = self._admin.partitions([spec.name for spec, _ in declared])
        for spec, plan in declared:
            if spec.name in there and found.get(spec.name) != plan:
                raise _other_plan(spec.name, found.get(spec.name, HashPartitioner(there[spec.name])), plan)
        return {spec.name: plan for spec, plan in declared}

    def _is_new(self, topic: str, plan: Plan) -> bool:
        _, ends = self._admin.spans((topic, partition) for partition in range(plan.partitions))
        return not any(ends.values())

    def _keep(self, topic: str, plan: RangePartitioner) -> None:
        self._admin.create([TopicSpec(PLANS_TOPIC, 1, -1, {"cleanup.policy": "compact"})])
        kept = _Kept(self._admin.topic_ids([topic])[topic], plan.splits)
        failed: list[KafkaException] = []
        producer = self._cluster.producer(linger_ms=0)
        producer.produce(
            PLANS_TOPIC,
            msgspec.json.encode(kept),
            topic,
            on_delivery=lambda error, _: failed.append(KafkaException(error)) if error is not None else None,
        )
        if producer.flush(_FLUSH_S):
            raise Stop(f"the plan of topic {topic} could not be written", hint="is the broker up?")
        if failed:
            raise from_kafka(failed[0], f"keep the plan of topic {topic}", servers=self._cluster.bootstrap_servers)

    def _kept(self) -> Mapping[str, _Kept | str]:
        """Topic -> its plan, or why that cannot be read."""
        at = (PLANS_TOPIC, 0)
        begins, ends = self._admin.spans([at])
        kept: dict[str, _Kept | str] = {}
        for run in read_to_end(self._cluster, begins, ends):
            for message in run.messages:
                topic = (message.key() or b"").decode(errors="replace")
                if message.value() is None:
                    kept.pop(topic, None)
                    continue
                try:
                    kept[topic] = msgspec.json.decode(message.value(), type=_Kept)
                except (msgspec.MsgspecError, RecursionError) as exc:
                    kept[topic] = f"{PLANS_TOPIC}[0]@{message.offset()}: {exc}"
        return kept


def _other_plan(topic: str, found: Plan, declared: Plan) -> Usage:
    return Usage(
        f"topic {topic} is spread by {found}, not by {declared}",
        hint="a plan cannot be changed: replay the topic into a new one",
    )
