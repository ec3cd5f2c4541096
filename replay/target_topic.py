"""Whether a topic would keep what is sent to it: Kafka deletes, restamps and rejects by record timestamp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..topics.errors import Stop, Usage

__all__ = ["MAX_MESSAGE_BYTES", "Target"]

# Kafka's own, of a batch of records as the broker takes it.
MAX_MESSAGE_BYTES = 1_048_588

_FOREVER_MS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Target:
    """What of a topic's configuration decides over the records of a replay. Times in ms; -1 in `retention_ms`: none.

    Attributes:
        max_bytes: the largest batch it takes, and so the largest record with all that goes with it.
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
    def of(cls, topic: str, config: Mapping[str, str]) -> Target:
        """From a topic's configuration in force, under Kafka's names."""
        policy = config.get("cleanup.policy", "delete").replace(" ", "").split(",")
        # Before Kafka 3.6 one setting stood for both directions.
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
        """What might go wrong, whatever the records are."""
        found: list[str] = []
        if self.deletes and self.retention_bytes >= 0:
            found.append(
                f"topic {self.topic} keeps {self.retention_bytes:,} bytes a partition (retention.bytes): "
                "the oldest records may be deleted"
            )
        if self.compacts:
            found.append(f"topic {self.topic} is compacted: only the last record of each key will stay")
        return found

    def check_times(self, oldest_ms: int, newest_ms: int, now_ms: int) -> None:
        """Refuse records with times of their own that the topic would delete, restamp or reject.

        Args:
            oldest_ms, newest_ms: bounds of the records' timestamps.

        Raises:
            Stop: names the setting to change.
        """
        if self.restamps:
            raise self._refusal(
                "would replace the records' times by the time of arrival", "message.timestamp.type=CreateTime"
            )
        if self.deletes and 0 <= self.retention_ms < now_ms - oldest_ms:
            raise self._refusal(
                f"would delete records older than {_days(self.retention_ms)}; the oldest here is "
                f"{_days(now_ms - oldest_ms)} old",
                "retention.ms=-1",
            )
        if now_ms - oldest_ms > self.accepted_before_ms:
            raise self._refusal(
                f"rejects records older than {_days(self.accepted_before_ms)}; the oldest here is "
                f"{_days(now_ms - oldest_ms)} old",
                f"message.timestamp.before.max.ms={_FOREVER_MS}",
            )
        if newest_ms - now_ms > self.accepted_after_ms:
            raise self._refusal(
                f"rejects records more than {_days(self.accepted_after_ms)} ahead of the clock; the newest here is "
                f"{_days(newest_ms - now_ms)} ahead",
                f"message.timestamp.after.max.ms={_FOREVER_MS}",
            )

    def check_keys(self, *, without_key: bool) -> None:
        """Refuse records without a key where the topic is compacted: the broker rejects them.

        Raises:
            Stop: names the setting to change.
        """
        if self.compacts and without_key:
            raise self._refusal("is compacted and rejects records without a key", "cleanup.policy=delete")

    def check_packed(self) -> None:
        """Refuse packed batches where the topic is compacted: they have no keys, and would stand for many.

        Raises:
            Usage: says what to do.
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


def _days(ms: int) -> str:
    if ms >= 86_400_000:
        return f"{ms / 86_400_000:,.1f} days"
    return f"{ms / 1000:,.0f} s"
