"""Finds the records that a topic refuses: too large, without a key in a compacted topic, or with a refused timestamp.

The broker refuses a whole batch and does not name the record. The record is found in three steps; each step is taken
only if the previous ones were not enough:

1. The epoch is reprocessed record by record (*isolating*), and outputs are checked against the *rules* of the topics
   that have refused records, which follow from the topic configuration. An output that breaks a rule raises in its
   agent, like any other failure.
2. If no rule explains the refusal, outputs are sent *singly*, each in its own batch, so that the broker's answer refers
   to one output.
3. An output that no record caused (it was sent by a timer or a web view) becomes a dead letter of its target topic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...topics.errors import BadRecord
from ...topics.output import Output

__all__ = ["RecordsRefused", "Rules"]

_ENDLESS_MS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a topic for records, from its configuration.

    Attributes:
        max_bytes: largest batch as it is sent, and therefore largest record, in bytes.
        needs_key: records must have a key, because the topic is compacted.
        partitions: number of partitions; 0 if it is not known.
        before_ms, after_ms: how far a record's timestamp may be before or after the broker's clock.
    """

    max_bytes: int
    needs_key: bool = False
    partitions: int = 0
    before_ms: int = _ENDLESS_MS
    after_ms: int = _ENDLESS_MS

    @classmethod
    def of(cls, config: Mapping[str, str], partitions: int) -> Rules:
        """Return the rules from a topic's effective configuration and its number of partitions."""
        apart = config.get("message.timestamp.difference.max.ms", str(_ENDLESS_MS))  # the setting of brokers before 3.6
        by_broker = config.get("message.timestamp.type") == "LogAppendTime"
        return cls(
            int(config["max.message.bytes"]),
            "compact" in config.get("cleanup.policy", ""),
            partitions,
            _ENDLESS_MS if by_broker else int(config.get("message.timestamp.before.max.ms", apart)),
            _ENDLESS_MS if by_broker else int(config.get("message.timestamp.after.max.ms", apart)),
        )

    def takes_time(self, timestamp_ms: int | None, now_ms: int) -> bool:
        """Return whether the topic accepts a timestamp; None means now."""
        return timestamp_ms is None or -self.before_ms <= timestamp_ms - now_ms <= self.after_ms

    def broken_by(self, output: Output, now_ms: int, *, sizes: bool = True) -> BadRecord | None:
        """Return the error for a record that breaks one of the rules; None if it breaks none.

        Args:
            sizes: also check the size. The size is an estimate: a record that compresses well may be larger.
        """
        topic = output.topic
        if self.needs_key and output.key is None:
            return BadRecord(f"a record without a key for topic {topic}, which is compacted", hint="give it a key")
        if output.timestamp_ms is not None and not self.takes_time(output.timestamp_ms, now_ms):
            away_s = (output.timestamp_ms - now_ms) / 1000
            return BadRecord(
                f"a record of time {output.timestamp_ms} ms for topic {topic}, which does not take a timestamp "
                f"{abs(away_s):,.0f} s {'ahead of' if away_s > 0 else 'behind'} the clock",
                hint="send it with another timestamp=…, or raise the topic's message.timestamp."
                f"{'after' if away_s > 0 else 'before'}.max.ms",
            )
        if self.partitions and output.partition >= self.partitions:
            return BadRecord(f"a record for {topic}[{output.partition}], a topic of {self.partitions} partitions")
        if sizes and output.size_bytes > self.max_bytes:
            return BadRecord(
                f"a record of {output.size_bytes:,} bytes for topic {topic}, which takes {self.max_bytes:,}",
                hint="raise max.message.bytes of the topic",
            )
        return None


@dataclass
class RecordsRefused(BadRecord):
    """Raised when topics have refused records; nothing of the epoch is visible.

    Attributes:
        rules: topic -> its rules, if they are known.
        topics: the topics that have refused records.
        why: the broker's error message.
        place: place of the refused output in the epoch, if it is known.
        news: whether the error contains new information, so that reprocessing the epoch finds the record.
    """

    rules: Mapping[str, Rules]
    topics: Iterable[str]
    why: str
    index: int | None = None
    news: bool = field(default=False)

    def __post_init__(self) -> None:
        super().__init__(f"records for {', '.join(sorted(self.topics))} were refused: {self.why}")
