"""Effects: what an epoch wants to happen, kept until the gate.

Nothing is produced before the gate. So undoing an epoch is forgetting a list, and no record's duration can outlive a
transaction timeout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...topics.errors import BadRecord, Stop
from ...topics.output import Output

if TYPE_CHECKING:
    from .protocols import RecordFeed
    from .record_queue import RecordPosition

__all__ = ["NO_TIME_MS", "Outbox", "Partials", "inherited_ms", "sendable"]

# One record that wants more than this is a mistake in the agent, and memory must not find it out.
MAX_OUTPUTS = 1_000_000

# A record without a time, to Kafka.
NO_TIME_MS = -1


def inherited_ms(message: Any) -> int | None:
    """The time of a record, for what comes of it; None where it has none (-1 to Kafka).

    Raises:
        BadRecord: it is exactly 0 ms, which cannot be sent.
    """
    timestamp_ms: int = message.timestamp()[1]
    return None if timestamp_ms == NO_TIME_MS else sendable(timestamp_ms)


def sendable(timestamp_ms: int) -> int:
    """A time as it may be sent.

    Raises:
        BadRecord: it is exactly 0 ms, which librdkafka takes for "now".
    """
    if timestamp_ms == 0:
        raise BadRecord(
            "a record with the time 1970-01-01T00:00:00.000Z (0 ms) cannot be sent: librdkafka takes 0 for the present",
            hint="give another one: send(…, timestamp=0.001)",
        )
    return timestamp_ms


class Partials:
    """Partial results on their way to a topic: one a key, merged as long as the epoch lasts, sent at the gate.

    Args:
        merge: of two results of a key; may change the first.
        outputs: makes records of keys and their results; the second argument is their time in ms.
    """

    __slots__ = ("_merge", "_outputs", "_timestamp_ms", "states")

    def __init__(
        self, merge: Callable[[Any, Any], Any], outputs: Callable[[dict[Any, Any], int | None], list[Output]]
    ) -> None:
        self._merge, self._outputs = merge, outputs
        self._timestamp_ms: int | None = None
        self.states: dict[Any, Any] = {}

    def add(self, states: dict[Any, Any], timestamp_ms: int | None) -> None:
        """Results of records up to this time."""
        if timestamp_ms is not None:
            self._timestamp_ms = max(timestamp_ms, timestamp_ms if self._timestamp_ms is None else self._timestamp_ms)
        if not self.states:
            self.states = dict(states)
            return
        mine, merge = self.states, self._merge
        for key, state in states.items():
            mine[key] = merge(mine[key], state) if key in mine else state

    def outputs(self) -> list[Output]:
        """One record a key.

        Raises:
            BadRecord: one cannot be encoded.
        """
        try:
            return self._outputs(self.states, self._timestamp_ms)
        except BadRecord:
            raise
        except Exception as exc:
            raise BadRecord(f"a partial result cannot be sent: {type(exc).__name__}: {exc}") from exc


class Outbox:
    """Outputs of the running epoch, in order.

    Attributes:
        partials: topic -> partial results that become outputs at the gate. They cannot be undone but with the epoch.
        dead_letters: how many of the outputs are dead letters; skipped: records given up without one.
        failed: agent -> records of its that went to its policy.
        owners: place among the outputs -> whose record it is, of those that were sent record by record.
        dead_letter_sources: places of dead letters -> where their records are from.
    """

    __slots__ = ("dead_letter_sources", "dead_letters", "failed", "outputs", "owners", "partials", "skipped")

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.partials: dict[str, Partials] = {}
        self.dead_letters = 0
        self.skipped = 0
        self.failed: Counter[str] = Counter()
        self.owners: dict[int, tuple[RecordFeed, RecordPosition]] = {}
        self.dead_letter_sources: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.outputs) + sum(len(partials.states) for partials in self.partials.values())

    def all(self) -> list[Output]:
        """What is to be sent, for the gate.

        Raises:
            BadRecord: a partial result cannot be encoded.
        """
        return [*self.outputs, *(output for partials in self.partials.values() for output in partials.outputs())]

    def add(self, output: Output) -> None:
        """Keep an output until the gate."""
        if len(self.outputs) >= MAX_OUTPUTS:
            raise Stop(
                f"one epoch holds {MAX_OUTPUTS:,} outputs and no record boundary is in sight",
                hint="an agent sends without end while it handles one record",
            )
        self.outputs.append(output)

    def truncate(self, length: int) -> None:
        """Undo what was added after there were `length` outputs."""
        del self.outputs[length:]
        for place in [place for place in self.owners if place >= length]:
            del self.owners[place]

    def clear(self) -> None:
        """A new epoch."""
        self.outputs = []
        self.partials = {}
        self.dead_letters = self.skipped = 0
        self.failed.clear()
        self.owners.clear()
        self.dead_letter_sources.clear()
