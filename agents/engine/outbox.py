"""The outbox: the outputs of an epoch, kept until the barrier.

Nothing is produced before the barrier. So a rollback only discards a list, and no transaction can time out while
an agent processes a record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any

from ...topics.errors import BadRecord, Stop, described
from ...topics.output import Output
from ...topics.topic_partition import TopicPartition

if TYPE_CHECKING:
    from .partition_queue import RecordPosition
    from .protocols import RecordFeed

__all__ = ["NO_TIME_MS", "Outbox", "Partials", "inherited_ms", "sendable"]

# A single record that causes more outputs than this shows an error in the agent; without this limit the worker would
# run out of memory.
MAX_OUTPUTS = 1_000_000

_NOWHERE = TopicPartition("", -1)

# The timestamp that a record without a timestamp has in Kafka.
NO_TIME_MS = -1


def inherited_ms(message: Any) -> int | None:
    """Return the timestamp of a record for its outputs, in milliseconds; None if it has none (-1 in Kafka).

    Raises:
        BadRecord: the timestamp is exactly 0 ms, which cannot be sent.
    """
    timestamp_ms: int = message.timestamp()[1]
    return None if timestamp_ms == NO_TIME_MS else sendable(timestamp_ms)


def sendable(timestamp_ms: int) -> int:
    """Return a timestamp in milliseconds unchanged if it can be sent.

    Raises:
        BadRecord: the timestamp is exactly 0 ms, which librdkafka takes for "now".
    """
    if timestamp_ms == 0:
        raise BadRecord(
            "a record with the time 1970-01-01T00:00:00.000Z (0 ms) cannot be sent: librdkafka replaces 0 by the "
            "current time",
            hint="use another timestamp: send(…, timestamp=0.001)",
        )
    return timestamp_ms


class Partials:
    """Partial results for a topic: one per key, reduced until the epoch ends, then sent at the barrier.

    Args:
        outputs: makes outputs from key -> result and their timestamp in milliseconds.

    Attributes:
        states: key -> partial result.
    """

    __slots__ = ("_outputs", "_timestamp_ms", "states")

    def __init__(self, outputs: Callable[[dict[Any, Any], int | None], list[Output]]) -> None:
        self._outputs = outputs
        self._timestamp_ms: int | None = None
        self.states: dict[Any, Any] = {}

    @property
    def count(self) -> int:
        """The number of partial results."""
        return len(self.states)

    def note_time(self, timestamp_ms: int | None) -> None:
        """Note the timestamp of a record that is reduced; the outputs have the latest one."""
        if timestamp_ms is not None:
            self._timestamp_ms = max(timestamp_ms, timestamp_ms if self._timestamp_ms is None else self._timestamp_ms)

    def outputs(self) -> list[Output]:
        """Return one output per key.

        Raises:
            BadRecord: a partial result cannot be encoded.
            Stop: the topic cannot hold such results at all.
        """
        try:
            return self._outputs(self.states, self._timestamp_ms)
        except (BadRecord, Stop):
            raise
        except Exception as exc:
            raise BadRecord(f"a partial result cannot be sent: {described(exc)}") from exc


class Outbox:
    """The outputs of the current epoch, in order.

    Attributes:
        outputs: the outputs without partial results.
        partials: topic -> partial results that become outputs at the barrier. Only a rollback of the whole epoch can
            discard them.
        dead_letters: number of dead letters among the outputs.
        skipped: number of records that were skipped without a dead letter.
        failed: agent -> number of its records to which its failure policy was applied.
        late: (operator, reason) -> number of records that came too late for it.
        fired: agent -> number of its timers and the like that fired.
        owners: index of an output -> stream and position of the record that sent it, for outputs sent while isolating.
        dead_letter_sources: index of a dead letter -> position of its record, as text.
    """

    __slots__ = (
        "_at",
        "_sections",
        "dead_letter_sources",
        "dead_letters",
        "failed",
        "fired",
        "late",
        "outputs",
        "owners",
        "partials",
        "skipped",
    )

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        # Where outputs of records of another partition begin: index of the first one, partition.
        self._sections: list[tuple[int, TopicPartition | None]] = []
        self._at: TopicPartition | None = _NOWHERE
        self.partials: dict[str, Partials] = {}
        self.dead_letters = 0
        self.skipped = 0
        self.failed: Counter[str] = Counter()
        self.late: Counter[tuple[str, str]] = Counter()
        self.fired: Counter[str] = Counter()
        self.owners: dict[int, tuple[RecordFeed, RecordPosition]] = {}
        self.dead_letter_sources: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.outputs) + sum(partials.count for partials in self.partials.values())

    def all(self) -> list[Output]:
        """Return all outputs, partial results included, for the commit.

        Raises:
            BadRecord: a partial result cannot be encoded.
        """
        return [*self.outputs, *(output for partials in self.partials.values() for output in partials.outputs())]

    def add(self, output: Output, at: TopicPartition | None = None) -> None:
        """Keep an output until the barrier.

        Args:
            at: partition of the record that has caused it.

        Raises:
            Stop: the epoch already holds `MAX_OUTPUTS` outputs.
        """
        self._begin_section(at)
        self.outputs.append(output)

    def add_all(self, outputs: list[Output], at: TopicPartition | None) -> None:
        """Keep many outputs until the barrier; see `add`."""
        if outputs:
            self._begin_section(at)
            self.outputs += outputs

    def _begin_section(self, at: TopicPartition | None) -> None:
        if len(self.outputs) >= MAX_OUTPUTS:
            raise Stop(
                f"an agent has sent {MAX_OUTPUTS:,} records in one epoch without finishing its record",
                hint="does it send in an endless loop?",
            )
        if at is not self._at:
            self._sections.append((len(self.outputs), at))
            self._at = at

    def add_dead_letter(self, letter: Output, source: str) -> None:
        """Append the dead letter of a record, whose position is `source`."""
        self.dead_letter_sources[len(self.outputs)] = source
        self.add(letter)
        self.dead_letters += 1

    def skip(self) -> None:
        """Count a record that is skipped without a dead letter."""
        self.skipped += 1

    @property
    def is_plain(self) -> bool:
        """True if it only holds outputs of records, whose partitions are known, and no record was given up."""
        counted = self.failed or self.skipped or self.late or self.fired
        return not (counted or self.partials or self.owners or self.dead_letter_sources)

    def drop_from(self, partitions: Container[TopicPartition | None]) -> None:
        """Remove the outputs of records of some partitions, from an outbox that `is_plain`."""
        outputs, sections = self.outputs, self._sections
        ends = [*(start for start, _ in sections), len(outputs)][1:]
        self.outputs, self._sections, self._at = [], [], _NOWHERE
        for (start, at), end in zip(sections, ends, strict=True):
            if at not in partitions:
                self._sections.append((len(self.outputs), at))
                self.outputs += outputs[start:end]
                self._at = at

    def truncate(self, length: int) -> None:
        """Remove all outputs after the first `length`."""
        del self.outputs[length:]
        while self._sections and self._sections[-1][0] >= length:
            self._sections.pop()
        self._at = self._sections[-1][1] if self._sections else _NOWHERE
        for index in [index for index in self.owners if index >= length]:
            del self.owners[index]

    def clear(self) -> None:
        """Empty the outbox, for a new epoch."""
        self.outputs = []
        self._sections, self._at = [], _NOWHERE
        self.partials = {}
        self.dead_letters = self.skipped = 0
        self.failed.clear()
        self.late.clear()
        self.fired.clear()
        self.owners.clear()
        self.dead_letter_sources.clear()
