"""Checks that a topic would keep the records of a replay: Kafka deletes, restamps and rejects records by timestamp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..topics.errors import Stop, Usage

__all__ = ["MAX_MESSAGE_BYTES", "TargetTopic"]

# Kafka's default of max.message.bytes: the size of a batch of records as the broker receives it.
MAX_MESSAGE_BYTES = 1_048_588

_FOREVER_MS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TargetTopic:
    """The configuration of a topic that decides what becomes of a replay's records.

    Attributes:
        retention_ms: -1 means without limit.
        restamps: the broker replaces timestamps by the time of arrival.
        accepted_before_ms, accepted_after_ms: how far a timestamp may be from the broker's clock.
        max_bytes: size of the largest batch, and so of the largest record with its overhead.
    """

    topic: str
    retention_ms: int
    retention_bytes: int
    deletes: bool
    compacts: bool
    restamps: bool
    accepted_before_ms: int
    accepted_after_ms: int
    max_bytes: int = MAX_MESSAGE_BYTES

    @classmethod
    def of(cls, topic: str, config: Mapping[str, str]) -> TargetTopic:
        """Create it from the effective configuration of a topic, under Kafka's names."""
        policy = config.get("cleanup.policy", "delete").replace(" ", "").split(",")
        # Before Kafka 3.6 one setting applied to both directions.
        both = config.get("message.timestamp.difference.max.ms", str(_FOREVER_MS))
        return cls(
            topic,
            retention_ms=int(config.get("retention.ms", "-1")),
            retention_bytes=int(config.get("retention.bytes", "-1")),
            deletes="delete" in policy,
            compacts="compact" in policy,
            restamps=config.get("message.timestamp.type") == "LogAppendTime",
            accepted_before_ms=int(config.get("message.timestamp.before.max.ms", both)),
            accepted_after_ms=int(config.get("message.timestamp.after.max.ms", both)),
            max_bytes=int(config.get("max.message.bytes", str(MAX_MESSAGE_BYTES))),
        )

    def warnings(self) -> list[str]:
        """Return what may become of the records later, whatever they are."""
        found: list[str] = []
        if self.deletes and self.retention_bytes >= 0:
            found.append(
                f"topic {self.topic} keeps {self.retention_bytes:,} bytes per partition (retention.bytes): "
                "the oldest records may be deleted"
            )
        if self.compacts:
            found.append(f"topic {self.topic} is compacted: only the last record of each key will be kept")
        return found

    def check_times(self, oldest_ms: int, newest_ms: int, now_ms: int) -> None:
        """Refuse records that the topic would delete, restamp or reject because of their timestamps.

        Args:
            oldest_ms, newest_ms: bounds of the records' timestamps.
            now_ms: the present time.

        Raises:
            Stop: the topic would not keep the records as they are; names the setting to change.
        """
        if self.restamps:
            raise self._refusal(
                "would replace the records' timestamps by the time of arrival", "message.timestamp.type=CreateTime"
            )
        if self.deletes and 0 <= self.retention_ms < now_ms - oldest_ms:
            raise self._refusal(
                f"would delete records older than {_duration(self.retention_ms)}; the oldest here is "
                f"{_duration(now_ms - oldest_ms)} old",
                "retention.ms=-1",
            )
        if now_ms - oldest_ms > self.accepted_before_ms:
            raise self._refusal(
                f"rejects records older than {_duration(self.accepted_before_ms)}; the oldest here is "
                f"{_duration(now_ms - oldest_ms)} old",
                f"message.timestamp.before.max.ms={_FOREVER_MS}",
            )
        if newest_ms - now_ms > self.accepted_after_ms:
            raise self._refusal(
                f"rejects records more than {_duration(self.accepted_after_ms)} ahead of the clock; the newest here is "
                f"{_duration(newest_ms - now_ms)} ahead",
                f"message.timestamp.after.max.ms={_FOREVER_MS}",
            )

    def check_keys(self, *, without_key: bool) -> None:
        """Refuse records without a key where the topic is compacted: the broker would reject them.

        Raises:
            Stop: names the setting to change.
        """
        if self.compacts and without_key:
            raise self._refusal("is compacted and rejects records without a key", "cleanup.policy=delete")

    def check_packed(self) -> None:
        """Refuse packed batches where the topic is compacted: they have no key, and each holds records of many keys.

        Raises:
            Usage: the topic is compacted.
        """
        if self.compacts:
            raise Usage(
                f"topic {self.topic} is compacted: it keeps the last record of each key, and a packed batch has none",
                hint="replay without --pack, or into a topic with cleanup.policy=delete",
            )

    def _refusal(self, what: str, setting: str) -> Stop:
        return Stop(
            f"topic {self.topic} {what}",
            hint=f"kafka-configs.sh --alter --entity-type topics --entity-name {self.topic} --add-config {setting}",
        )


def _duration(ms: int) -> str:
    if ms >= 86_400_000:
        return f"{ms / 86_400_000:,.1f} days"
    return f"{ms / 1000:,.0f} s"
