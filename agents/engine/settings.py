"""What an operator can turn, in a few small frozen pieces; each default says why it is what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...topics.errors import Usage
from ...topics.packed_limits import PackedLimits

__all__ = ["BOUNDED", "EngineSettings", "PackedLimits"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the loop polls and commits.

    Attributes:
        exactly_once: one Kafka transaction an epoch; False produces and commits without one (at least once).
        epoch_s: an epoch ends after this long at the latest. In a bounded run, where nobody waits for results while
            there is history to read, `BOUNDED` has longer ones unless the app says otherwise: what a commit costs is
            the keys that the epoch touched, and reading the result costs the keys of all commits.
        commit_share: commits may take this share of the time while nothing waits to be handled, so that epochs end
            early: half of it makes the latency about twice that of a commit (80 of them a second on one machine). Less
            spares a broker that many workers share.
        batch_records: most records taken in one poll. Larger polls are cheaper a record; the loop takes fewer when
            agents are slow, so that one poll's worth takes `batch_s`.
        batch_s: how long one poll's worth of records should keep the agents busy.
        backlog_records: most records handed over and not yet committed; above it nothing is polled.
        max_outputs: most outputs an epoch may hold before it is committed.
        epoch_bytes: how much memory its records may take, about, before it is; they are kept for a redo.
        group_protocol: `classic`, or `consumer` (KIP-848), where partitions that do not move do not stop and session
            times are the broker's; all members of a group need the same.
        session_timeout_ms: a dead worker's partitions move after this long, unless it comes back under its identity.
        notice_ends: notice where partitions end, for a run that says where its history does.
        start_at_end: where a group begins that never committed: at the ends of its topics, as they are then, instead of
            their beginnings. Partitions that are added later are read from their beginnings.
        connect_s: how long a start waits for a broker that answers.
        patience_s: how long a worker that runs waits for a broker that went away, before it ends with an error.
        max_failure_share: a worker stops when more than this share of one agent's records became dead letters or were
            skipped, over a minute and at least 1,000 of them; 1 turns the limit off.
        ready_lag_records: `/readyz` says no while this worker is further behind; None never does. A hundred thousand
            are what agents work off within seconds.
        standby_replicas: other workers that keep a warm copy of each partition's tables.
        stuck_s: how long agents may take to let go of a record when the worker has to stop or redo.
        consumer_options: librdkafka's options of the worker's consumer, under its dotted names; they win over ours, and
            `-X` over both. producer_options: of its producers, likewise.
        packed: the largest packed batches that are opened, larger ones are dead letters; None takes the limits of the
            environment (`ANABRANCH_PACKED_ROWS`, …), else those of `PackedLimits`.
        forwarded_headers: headers of a client's request that go along to the worker that has the key it asks for, such
            as `Authorization`; none with secrets do unless they are named here.
    """

    exactly_once: bool = True
    epoch_s: float = 0.1
    commit_share: float = 0.5
    batch_records: int = 20_000
    batch_s: float = 0.05
    backlog_records: int = 200_000
    max_outputs: int = 100_000
    epoch_bytes: int = 32_000_000
    group_protocol: Literal["classic", "consumer"] = "classic"
    session_timeout_ms: int = 10_000
    max_poll_interval_ms: int = 300_000
    notice_ends: bool = False
    start_at_end: bool = False
    connect_s: float = 5.0
    patience_s: float = 120.0
    max_failure_share: float = 0.5
    ready_lag_records: int | None = 100_000
    standby_replicas: int = 0
    stuck_s: float = 30.0
    consumer_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    producer_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    packed: PackedLimits | None = None
    forwarded_headers: tuple[str, ...] = ()

    def membership(self, instance: str) -> dict[str, Any]:
        """librdkafka's settings of a member of the group, `_` for `.`."""
        if self.group_protocol == "consumer":
            # No static id: a member that was killed still holds it, and librdkafka takes that for a fatal error.
            if "client.id" in self.consumer_options:
                raise Usage(
                    "broker_client_id, or a client.id of the consumer, with group_protocol=consumer",
                    hint="workers are known by it there, so it is their own: omit it",
                )
            return {"group_protocol": "consumer", "group_remote_assignor": "range", "client_id": instance}
        return {
            "group_instance_id": instance,
            "partition_assignment_strategy": "range",
            "session_timeout_ms": self.session_timeout_ms,
            "heartbeat_interval_ms": max(self.session_timeout_ms // 10, 300),
        }


BOUNDED = EngineSettings(epoch_s=5.0, epoch_bytes=64_000_000)
"""Of a bounded run."""
