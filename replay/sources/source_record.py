"""`SourceRecord`, a record on its way into a topic, and `BadLine`, a line that could not become one."""

from __future__ import annotations

from collections.abc import Iterable

from ...topics.errors import BadRecord, Stop
from ...topics.private_texts import shown_text
from ...topics.producer import Headers

__all__ = ["NO_LIMIT", "BadLine", "SourceRecord", "check_sizes", "zero_time_error"]

# (key, value, timestamp_ms, headers, partition). Timestamp 0 means the present time; partition None means that the key
# decides. A plain tuple, because it is made and taken apart some hundred thousand times a second, and a named tuple
# costs as much as parsing the line.
SourceRecord = tuple[bytes | None, bytes | None, int, Headers | None, int | None]


NO_LIMIT = 2**31 - 1

# A dead letter must fit into its topic, whatever was wrong with it; brokers and clients accept about 1 MB by default.
_MOST_KEPT_BYTES = 900_000


def zero_time_error(position: str) -> Stop:
    """Return the error for a record whose timestamp is exactly 0 ms, which librdkafka replaces by the present time."""
    return Stop(
        f"{position}: its time is 1970-01-01T00:00:00.000Z (0 ms), which librdkafka replaces by the current time",
        hint="filter such records out, or give them another time in their source topic",
    )


class BadLine(BadRecord):
    """A line or row that does not fit the file's format, or the point from which a file cannot be read any further.

    Attributes:
        source: name of the file as the user would write it.
        line: number of the line or row, from 1.
        reason: what is wrong with it.
        value: its raw bytes, at most the first 900,000.
    """

    def __init__(self, source: str, line: int, reason: str, value: bytes) -> None:
        if len(value) > _MOST_KEPT_BYTES:
            reason += f" (the first {_MOST_KEPT_BYTES:,} of {len(value):,} bytes are kept)"
        super().__init__(
            f"{source}:{line}: {shown_text(reason)}",
            hint="--on-bad-line skip skips such lines, dead-letter sends them to the dead-letter topic",
        )
        self.source = source
        self.line = line
        self.reason = reason
        self.value = value[:_MOST_KEPT_BYTES]

    @property
    def described(self) -> str:
        """Position and reason, which is hidden where it may quote a private field."""
        return f"{self.position}: {shown_text(self.reason)}"

    @property
    def position(self) -> str:
        """The position as `file:line`."""
        return f"{self.source}:{self.line}"


def check_sizes(values: Iterable[bytes], max_bytes: int) -> None:
    """Refuse values that the topic would reject.

    Raises:
        ValueError: a value is larger than `max_bytes`.
    """
    largest = max(map(len, values), default=0)
    if largest > max_bytes:
        raise ValueError(
            f"a record of {largest:,} bytes; at most {max_bytes:,} are sent, unless you raise -X message.max.bytes=… "
            "here "
            "and max.message.bytes of the topic"
        )
