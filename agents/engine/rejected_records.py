"""Records that a topic does not take: without a key where it is compacted, too large, of a time that it refuses.

The broker refuses a whole batch and does not say which record it means. So it is found out in three steps, each only
where the one before was not enough:

1. The epoch is reprocessed record by record (*isolating*), and outputs are compared with the *rules* of the topics that
   have refused records, from their configuration. An output that breaks one raises in its agent, like any failure.
2. What no rule explains is sent *singly*, each record in a batch of its own, so that the broker's answer means it.
3. What was sent by nobody's record (a timer, a web view) becomes a dead letter of the topic that it was for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...topics.errors import BadRecord
from ...topics.output import Output

__all__ = ["Refused", "Rules"]

_ENDLESS_MS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Rules:
    """What a topic takes, by its configuration.

    Attributes:
        max_bytes: of a batch as it is sent, so of a record.
        partitions: how many it has; 0 where that is not known.
        before_ms, after_ms: how far a record's time may lie from the broker's clock.
    """

    max_bytes: int
    needs_key: bool = False
    partitions: int = 0
    before_ms: int = _ENDLESS_MS
    after_ms: int = _ENDLESS_MS

    @classmethod
    def of(cls, config: Mapping[str, str], partitions: int) -> Rules:
        """From a topic's configuration in force."""
        apart = config.get("message.timestamp.difference.max.ms", str(_ENDLESS_MS))  # of brokers before 3.6
        by_broker = config.get("message.timestamp.type") == "LogAppendTime"
        return cls(
            int(config["max.message.bytes"]),
            "compact" in config.get("cleanup.policy", ""),
            partitions,
            _ENDLESS_MS if by_broker else int(config.get("message.timestamp.before.max.ms", apart)),
            _ENDLESS_MS if by_broker else int(config.get("message.timestamp.after.max.ms", apart)),
        )

    def takes_time(self, timestamp_ms: int | None, now_ms: int) -> bool:
        """Whether a record may have this time; None is now."""
        return timestamp_ms is None or -self.before_ms <= timestamp_ms - now_ms <= self.after_ms

    def broken_by(self, output: Output, now_ms: int, *, sizes: bool = True) -> BadRecord | None:
        """Why the topic does not take a record, if one of these rules says so.

        Args:
            sizes: also for its size, which is an estimate: what compresses well may be larger.
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
class Refused(BadRecord):
    """Topics have refused records; nothing of the epoch is visible.

    Attributes:
        rules: of these topics, as far as they have any.
        why: what the broker says.
        place: which output of the plan it means, where that is known.
        news: whether something is known now that was not before, so that doing the epoch again finds the record.
    """

    rules: Mapping[str, Rules]
    topics: Iterable[str]
    why: str
    place: int | None = None
    news: bool = field(default=False)

    def __post_init__(self) -> None:
        super().__init__(f"records for {', '.join(sorted(self.topics))} were refused: {self.why}")
