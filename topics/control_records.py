"""Control records: records of this project's own between an app's records, such as watermarks and the end of an input.

    headers   one, `anabranch-control`, with the kind (ASCII)
    key       `\\x00anabranch-control`: compacted topics refuse records without a key, and no key of a record begins so
    value     msgpack

They count only in topics that an app of this project has created: its repartition topics, and the topics of a bounded
run. There no reader hands them to agents, counts, archives, compares or replays them. In every other topic the header
is plain data and the record an ordinary one: whoever can write to such a topic could otherwise hide records from its
readers. For the same reason nothing that copies a record to another topic or into an archive copies the header
(`headers.without_control`).

A control record occupies an offset like any other record, so committed offsets, ends and positions include it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import methodcaller
from typing import NamedTuple, TypeVar

import msgspec

from .errors import BadRecord
from .headers import CONTROL_HEADER, headers_of
from .json_value import JsonValue
from .message import Message
from .producer import Headers

__all__ = [
    "CONTROL_KEY",
    "END_OF_INPUT",
    "WATERMARK",
    "ControlRecord",
    "carries_control",
    "control_records",
    "decode",
    "is_control",
    "is_repartition_topic_of",
    "records_of",
]

CONTROL_KEY = b"\x00anabranch-control"
"""The key of every control record."""

WATERMARK = "mark"
"""The kind of a watermark message: the stream time of source partitions; see `agents/event_time/time_keeper.py`."""

END_OF_INPUT = "end"
"""The kind of the message behind the last record of a partition of a bounded run's input."""

REPARTITION_SUFFIX = "-repartition"

# A bounded run's group is called <app>-run-<id>, and its topics <app>-run-<id>-<topic>.
_GROUP_OF_A_RUN, _TOPIC_OF_A_RUN = re.compile(".-run-."), re.compile(".-run-[^-]+-.")

_ask_key = methodcaller("key")

M = TypeVar("M", bound=Message)


class ControlRecord(NamedTuple):
    """The kind and value of a control record.

    >>> record = ControlRecord("end", {"orders:0": None})
    >>> record.headers, ControlRecord.parsed(b"end", record.encoded()) == record
    ([('anabranch-control', b'end')], True)
    """

    kind: str
    value: JsonValue = None

    @property
    def headers(self) -> Headers:
        """The record's headers; its key is `CONTROL_KEY`."""
        return [(CONTROL_HEADER, self.kind.encode("ascii"))]

    def written(self) -> tuple[bytes, bytes, Headers]:
        """Return key, value and headers of the record."""
        return CONTROL_KEY, self.encoded(), self.headers

    def encoded(self) -> bytes:
        """Return the record's value."""
        return msgspec.msgpack.encode(self.value)

    @classmethod
    def parsed(cls, kind: bytes, value: bytes | None) -> ControlRecord:
        """Return what the header and the value of a control record say.

        Raises:
            BadRecord: they are not those of a control record.
        """
        try:
            return cls(kind.decode("ascii"), msgspec.msgpack.decode(value or b""))
        except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError) as exc:
            raise BadRecord(f"a control record cannot be read: {exc}") from exc


def carries_control(topic: str, group: str | None = None) -> bool:
    """Return whether control records count in a topic: only where an app has created it for itself.

    Args:
        group: id of the app, or of its bounded run (`<app>-run-<id>`), whose topics alone are meant; None goes by the
            form of the name, for tools that read any topic.

    >>> carries_control("shop-totals-repartition"), carries_control("shop-run-1f0c-orders"), carries_control("orders")
    (True, True, False)
    >>> carries_control("shop-run-1f0c-orders", "shop-run-1f0c")
    True
    >>> carries_control("shop-totals-repartition", "bank"), carries_control("shop-run-1f0c-orders", "shop")
    (False, False)
    """
    if group is None:
        return topic.endswith(REPARTITION_SUFFIX) or _TOPIC_OF_A_RUN.search(topic) is not None
    if is_repartition_topic_of(group, topic):
        return True
    return topic.startswith(f"{group}-") and _GROUP_OF_A_RUN.search(group) is not None


def is_repartition_topic_of(group: str, topic: str) -> bool:
    """Return whether a topic is a repartition topic of an app, which nobody else writes to.

    Args:
        group: id of the app, or of its bounded run.
    """
    return topic.startswith(f"{group}-") and topic.endswith(REPARTITION_SUFFIX)


def is_control(message: Message) -> bool:
    """Return whether a record of a topic for which `carries_control` holds is a control record."""
    if message.key() != CONTROL_KEY:
        return False
    return any(name == CONTROL_HEADER for name, _ in headers_of(message) or ())


def records_of(messages: list[M]) -> list[M]:
    """Return the records of such a topic without the control records: the same list where there are none.

    Costs a look at each key, 50 ns; call it only for topics for which `carries_control` holds.
    """
    if CONTROL_KEY not in map(_ask_key, messages):
        return messages
    return [message for message in messages if not is_control(message)]


def control_records(messages: Sequence[M]) -> list[M]:
    """Return the control records among the records of such a topic."""
    return [message for message in messages if is_control(message)]


def decode(message: Message) -> ControlRecord:
    """Return what a control record says.

    Raises:
        BadRecord: it cannot be read.
    """
    kind = next(value for name, value in headers_of(message) or () if name == CONTROL_HEADER)
    return ControlRecord.parsed(kind or b"", message.value())
