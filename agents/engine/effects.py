"""Effects: what an epoch wants to happen, kept until the gate.

Nothing is produced before the gate. So undoing an epoch is forgetting a list, and no record's duration can outlive a
transaction timeout.
"""

from __future__ import annotations

from typing import NamedTuple

from ...topics.errors import Stop
from ...topics.producer import Headers

__all__ = ["Effects", "Output"]

# One record that wants more than this is a mistake in the agent, and memory must not find it out.
MAX_OUTPUTS = 1_000_000

# Beside their content: lengths, times and offsets, and what stands once before a batch of records.
_HEADER_BYTES = 4
_RECORD_BYTES = 90


class Output(NamedTuple):
    """A record to be produced; `partition` -1 lets the key choose, `timestamp_ms` 0 means now."""

    topic: str
    value: bytes | None
    key: bytes | None
    partition: int
    timestamp_ms: int
    headers: Headers | None

    @property
    def size_bytes(self) -> int:
        """About what it takes in Kafka, uncompressed."""
        headers = sum(len(name) + len(value or b"") + _HEADER_BYTES for name, value in self.headers or ())
        return len(self.value or b"") + len(self.key or b"") + headers + _RECORD_BYTES


class Effects:
    """Outputs of the running epoch, in order.

    Attributes:
        dead_letters: how many of the outputs are dead letters; skipped: records given up without one.
    """

    __slots__ = ("dead_letters", "outputs", "skipped")

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.dead_letters = 0
        self.skipped = 0

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

    def clear(self) -> None:
        """A new epoch."""
        self.outputs = []
        self.dead_letters = self.skipped = 0
