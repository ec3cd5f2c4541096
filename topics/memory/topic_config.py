"""The configuration of topics, under Kafka's names."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import KafkaError

from .failure import Refused

__all__ = ["DEFAULTS", "TopicConfig"]

# Those of a broker of this project (`devbroker`): Kafka's own, but records are kept without a limit of time.
DEFAULTS: Mapping[str, str] = {
    "cleanup.policy": "delete",
    "compression.gzip.level": "-1",
    "compression.lz4.level": "9",
    "compression.type": "producer",
    "compression.zstd.level": "3",
    "delete.retention.ms": "86400000",
    "file.delete.delay.ms": "60000",
    "flush.messages": "9223372036854775807",
    "flush.ms": "9223372036854775807",
    "follower.replication.throttled.replicas": "",
    "index.interval.bytes": "4096",
    "leader.replication.throttled.replicas": "",
    "local.retention.bytes": "-2",
    "local.retention.ms": "-2",
    "max.compaction.lag.ms": "9223372036854775807",
    "max.message.bytes": "1048588",
    "message.timestamp.after.max.ms": "3600000",
    "message.timestamp.before.max.ms": "9223372036854775807",
    "message.timestamp.type": "CreateTime",
    "min.cleanable.dirty.ratio": "0.5",
    "min.compaction.lag.ms": "0",
    "min.insync.replicas": "1",
    "preallocate": "false",
    "remote.log.copy.disable": "false",
    "remote.log.delete.on.disable": "false",
    "remote.storage.enable": "false",
    "retention.bytes": "-1",
    "retention.ms": "-1",
    "segment.bytes": "1073741824",
    "segment.index.bytes": "10485760",
    "segment.jitter.ms": "0",
    "segment.ms": "604800000",
    "unclean.leader.election.enable": "false",
}

_TIMESTAMP_TYPES = ("CreateTime", "LogAppendTime")
_POLICIES = ("compact", "delete")
_TEXTS = (
    "cleanup.policy",
    "compression.type",
    "message.timestamp.type",
    "min.cleanable.dirty.ratio",
    "follower.replication.throttled.replicas",
    "leader.replication.throttled.replicas",
)


class TopicConfig:
    """A topic's configuration, in force at once when it is changed.

    Attributes:
        own: what was set for the topic.

    Raises:
        Refused: an unknown name, or a value that Kafka does not take.
    """

    def __init__(self, own: Mapping[str, str]) -> None:
        self.own: dict[str, str] = {}
        self._take()
        self.change(own)

    def change(self, new: Mapping[str, str | None]) -> None:
        """Set values; None returns to the default."""
        for name, value in new.items():
            if name not in DEFAULTS:
                raise Refused(KafkaError.INVALID_CONFIG, f"Unknown topic config name: {name}")
            if value is not None:
                _check(name, value)
        merged: dict[str, str | None] = {**self.own, **new}
        self.own = {name: value for name, value in merged.items() if value is not None}
        self._take()

    def _take(self) -> None:
        found = self.in_force()
        self.compacted = "compact" in found["cleanup.policy"].split(",")
        self.deleted = "delete" in found["cleanup.policy"].split(",")
        self.log_append_time = found["message.timestamp.type"] == "LogAppendTime"
        self.max_message_bytes = int(found["max.message.bytes"])
        self.after_max_ms = int(found["message.timestamp.after.max.ms"])
        self.before_max_ms = int(found["message.timestamp.before.max.ms"])
        self.retention_ms = int(found["retention.ms"])
        self.retention_bytes = int(found["retention.bytes"])
        self.compaction_lag_ms = int(found["min.compaction.lag.ms"])
        self.delete_retention_ms = int(found["delete.retention.ms"])

    def in_force(self) -> dict[str, str]:
        """Return name -> value, defaults included."""
        return {**DEFAULTS, **self.own}


def _check(name: str, value: str) -> None:
    if name == "cleanup.policy":
        fine = all(policy.strip() in _POLICIES for policy in value.split(",") if value)
    elif name == "message.timestamp.type":
        fine = value in _TIMESTAMP_TYPES
    elif name in _TEXTS or DEFAULTS[name] in ("true", "false"):
        fine = True
    else:
        fine = value.lstrip("-").isdigit()
    if not fine:
        raise Refused(KafkaError.INVALID_CONFIG, f"Invalid value {value} for configuration {name}")
