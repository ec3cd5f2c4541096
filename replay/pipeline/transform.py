"""A user's function over the records of a replay: one record in, one, none or several out.

    # clean.py
    from anabranch.replay import Record

    def paid(record: Record) -> Record | None:
        order = record.json()
        if not order["paid"]:
            return None                          # left out
        record.key = order["user"].encode()
        return record                            # or a list of records

    anabranch replay orders.jsonl --to orders --transform clean:paid

The same record has to give the same result whenever it is asked: after a crash a batch is read again, and what went out
of it before is passed over by counting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from ...topics.errors import Stop, Usage
from ...topics.producer import Headers
from ..module_loader import load_module
from ..sources.source_record import BadLine, SourceRecord
from ..time_text import shown_time
from .selection import Step

__all__ = ["Record", "Transform", "load_transform", "transforming"]


@dataclass(slots=True)
class Record:
    """What goes into the topic; change it, or make new ones.

    Attributes:
        timestamp_ms: since 1970; 0 means the time of sending.
        partition: None lets the key choose.
    """

    key: bytes | None
    value: bytes | None
    timestamp_ms: int = 0
    headers: Headers | None = None
    partition: int | None = None

    def json(self) -> Any:
        """The value, decoded."""
        return msgspec.json.decode(self.value or b"null")


Transform = Callable[[Record], Record | Iterable[Record] | None]


def load_transform(name: str) -> Transform:
    """The function that `module:function` or `file.py:function` names.

    Raises:
        Usage: there is none.
    """
    where, _, attribute = name.partition(":")
    if not attribute:
        raise Usage(f"--transform {name}: expected module:function", hint="for example --transform clean:paid")
    function = getattr(load_module(where), attribute, None)
    if not callable(function):
        raise Usage(f"--transform {name}: {where} has no function {attribute}")
    return cast(Transform, function)


def transforming(name: str, transform: Transform) -> Step:
    """What has to be done with records so that they go through a function.

    Raises:
        Stop: the function fails, or gives something else than records.
    """

    def step(items: Sequence[SourceRecord], _: list[BadLine]) -> list[SourceRecord]:
        found: list[SourceRecord] = []
        for item in items:
            try:
                given = transform(Record(*item))
                if given is None:
                    continue
                for record in (given,) if isinstance(given, Record) else given:
                    found.append((record.key, record.value, record.timestamp_ms, record.headers, record.partition))
            except Exception as exc:
                at = f" of {shown_time(item[2])}" if item[2] else ""
                raise Stop(
                    f"--transform {name}: {type(exc).__name__}: {exc}; on the record{at} {(item[1] or b'')[:200]!r}",
                    hint="it gives a Record, a list of them, or None to leave the record out",
                ) from exc
        return found

    return step
