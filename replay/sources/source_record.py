"""One record on its way into a topic, and one line that could not become one."""

from __future__ import annotations

from collections.abc import Iterable

from ...topics.errors import BadRecord, Stop
from ...topics.producer import Headers

__all__ = ["NO_LIMIT", "BadLine", "SourceRecord", "check_sizes", "zero_time_error"]

# (key, value, timestamp_ms, headers, partition); timestamp 0 means now, partition None the one that the key tells. A
# plain tuple: it is made and taken apart some hundred thousand times a second, and a named one costs as much as parsing
# the line.
SourceRecord = tuple[bytes | None, bytes | None, int, Headers | None, int | None]


NO_LIMIT = 2**31 - 1

# A dead letter must fit into its topic, whatever was wrong; brokers and clients take about 1 MB unless told otherwise.
_MOST_KEPT_BYTES = 900_000


def zero_time_error(where: str) -> Stop:
    """A record whose time is exactly 0 ms, which librdkafka takes for "now", so that it cannot be sent as it is."""
    return Stop(
        f"{where}: its time is 1970-01-01T00:00:00.000Z (0 ms), which librdkafka takes for the present",
        hint="leave such records out, or give them another time in the topic they come from",
    )


class BadLine(BadRecord):
    """A line (or a row) that is not what its file says it is; or the place from where on a file cannot be read.

    Attributes:
        source: the file, as the user would name it.
        line: number of the line or row in it, from 1.
        reason: what is wrong with it.
        value: its bytes as they are, the first 900,000 at most.
    """

    def __init__(self, source: str, line: int, reason: str, value: bytes) -> None:
        if len(value) > _MOST_KEPT_BYTES:
            reason += f" (the first {_MOST_KEPT_BYTES:,} of {len(value):,} bytes are kept)"
        super().__init__(
            f"{source}:{line}: {reason}",
            hint="--on-bad-line skip leaves such lines out, dead-letter keeps them in a topic of their own",
        )
        self.source = source
        self.line = line
        self.reason = reason
        self.value = value[:_MOST_KEPT_BYTES]

    @property
    def where(self) -> str:
        """`file:line`."""
        return f"{self.source}:{self.line}"


def check_sizes(values: Iterable[bytes], max_bytes: int) -> None:
    """Refuse values that the topic would.

    Raises:
        ValueError: one is too large.
    """
    largest = max(map(len, values), default=0)
    if largest > max_bytes:
        raise ValueError(
            f"a record of {largest:,} bytes; at most {max_bytes:,} are sent, unless -X message.max.bytes=… here and "
            "max.message.bytes of the topic allow more"
        )
