"""Applies a user's function to the records of a replay: one record in, none, one or several out.

    # clean.py
    from anabranch.replay import Record

    def paid(record: Record) -> Record | None:
        order = record.json()
        if not order["paid"]:
            return None                          # filtered out
        record.key = order["user"].encode()
        return record                            # or a list of records

    anabranch replay orders.jsonl --to orders --transform clean:paid

The function must return the same result for the same record every time: after a crash a batch is read again, and as
many results as were sent before are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from types import NoneType
from typing import Any, cast

import msgspec

from ...topics.errors import Stop, Usage, described
from ...topics.private_texts import shown_text
from ...topics.producer import Headers
from ..module_loader import load_module
from ..sources.source_record import BadLine, SourceRecord
from ..time_text import format_time
from .selection import Step

__all__ = ["Record", "Transform", "load_transform", "transforming"]


@dataclass(slots=True)
class Record:
    """A record on its way into the topic. A transform may change it, or create new ones.

    Attributes:
        timestamp_ms: milliseconds since 1970; 0 means the time of sending.
        partition: the partition of the topic; None chooses it by the key.
    """

    key: bytes | None
    value: bytes | None
    timestamp_ms: int = 0
    headers: Headers | None = None
    partition: int | None = None

    def json(self) -> Any:
        """Return the value, decoded from JSON; None for a record without a value."""
        return msgspec.json.decode(self.value or b"null")


# Besides what `Record` says, Kafka's client takes a value that is text, and NumPy's integers. The abstract class comes
# last, because it is slow to ask: plain integers and None are found before.
_KINDS: dict[str, tuple[type, ...]] = {
    "key": (bytes, NoneType),
    "value": (bytes, str, NoneType),
    "timestamp_ms": (int, Integral),
    "headers": (list, tuple, NoneType),
    "partition": (int, NoneType, Integral),
}
_SAID = {NoneType: "None"}
_HEADERS = {(str, bytes), (str, str), (str, NoneType)}

Transform = Callable[[Record], Record | Iterable[Record] | None]


def load_transform(name: str) -> Transform:
    """Load the function that `module:function` or `file.py:function` names.

    Raises:
        Usage: there is no such function.
    """
    module_name, _, attribute = name.partition(":")
    if not attribute:
        raise Usage(f"--transform {name}: expected module:function", hint="for example --transform clean:paid")
    function = getattr(load_module(module_name), attribute, None)
    if not callable(function):
        raise Usage(f"--transform {name}: {module_name} has no function {attribute}")
    return cast(Transform, function)


def transforming(name: str, transform: Transform) -> Step:
    """Return the step that applies a function to records.

    The step raises `Stop` if the function fails, or returns anything but records.
    """

    def step(items: Sequence[SourceRecord], _: list[BadLine]) -> list[SourceRecord]:
        found: list[SourceRecord] = []
        for item in items:
            try:
                given = transform(Record(*item))
                if given is None:
                    continue
                for record in (given,) if isinstance(given, Record) else given:
                    _check(record)
                    value = cast("bytes | str | None", record.value)
                    value = value.encode() if isinstance(value, str) else value
                    found.append((record.key, value, record.timestamp_ms, record.headers, record.partition))
            except KeyboardInterrupt:
                raise
            except BaseException as exc:  # panics of Rust libraries and sys.exit, too
                shown = shown_text(repr((item[1] or b"")[:200]))
                at = f" of {format_time(item[2])}" if item[2] else ""
                raise Stop(
                    f"--transform {name}: {described(exc)}; on the record{at} {shown}",
                    hint="it returns a Record, a list of them, or None to filter the record out",
                ) from exc
        return found

    return step


def _check(record: Record) -> None:
    """Refuse a record that Kafka's client would not take.

    Raises:
        TypeError: an attribute is of another type than `Record` says.
    """
    if not isinstance(cast(object, record), Record):
        raise TypeError(f"what it returns is, or holds, something {_a(record)}, which is no Record")
    for name, kinds in _KINDS.items():
        given = getattr(record, name)
        if not isinstance(given, kinds):
            expected = " or ".join(_SAID.get(kind, kind.__name__) for kind in kinds if kind is not Integral)
            raise TypeError(f"the {name} of its record is {_a(given)}, not {expected}")
    for header in record.headers or ():
        if not isinstance(cast(object, header), tuple) or tuple(map(type, header)) not in _HEADERS:
            raise TypeError(f"a header of its record is {header!r}, not a tuple of str and bytes")


def _a(given: object) -> str:
    return f"of type {type(given).__name__}"
