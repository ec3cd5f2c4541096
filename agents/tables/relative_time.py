"""The times of records that windowed tables go by: `relative_to_stream()`, `relative_to_field(View.at)` and others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from types import MemberDescriptorType
from typing import Any, Literal, Protocol, cast

from ...topics.errors import BadRecord, Usage, described
from ..event_time.event_time import time_ms

__all__ = ["NOW", "STREAM", "RecordAtHand", "RelativeTime", "field_time", "time_of"]


class RecordAtHand(Protocol):
    """The record that an agent processes."""

    @property
    def value(self) -> Any:
        """Its decoded value."""
        ...

    @property
    def stream_ms(self) -> int:
        """Its event time, as its topic declares it, in milliseconds.

        Raises:
            ValueError: it has none.
        """
        ...

    @property
    def event(self) -> Any:
        """It as Faust's event."""
        ...


@dataclass(frozen=True)
class RelativeTime:
    """A time that windows are relative to.

    Attributes:
        kind: `stream`: the event time of the record's topic; `field`, `function`: a field of the value, or a function
            of the event; `fixed`: one moment; `now`: the time of the partition.
        of: the function; of a fixed time, milliseconds since 1970.
        name: the field or the function, for messages.
    """

    kind: Literal["stream", "field", "function", "fixed", "now"]
    of: Any = None
    name: str = ""

    @property
    def is_of_records(self) -> bool:
        """True if each record has such a time, so that a table can be written by it."""
        return self.kind in ("stream", "field", "function")

    def of_record(self, record: RecordAtHand) -> int:
        """Return the time of a record in milliseconds.

        Numbers are seconds, as in Faust. A datetime without a zone is UTC; so is text in ISO 8601 without one.

        Raises:
            BadRecord: the record has no such time.
        """
        try:
            if self.kind == "stream":
                return record.stream_ms
            return time_ms(_zoned(self.of(record.value if self.kind == "field" else record.event)), "s")
        except Exception as exc:
            raise BadRecord(
                f"the record has no time: {described(exc)}",
                hint=f"a table with windows that is written {self} needs it",
            ) from exc

    def __str__(self) -> str:
        return f"relative to {'the stream' if self.kind == 'stream' else self.name or self.kind}"


STREAM = RelativeTime("stream")
"""The event time that the record's topic declares: `time=`, else its timestamp in Kafka."""

NOW = RelativeTime("now")
"""The time of the table's partition."""


def _zoned(time: object) -> object:
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time)
        except ValueError:
            return time  # `time_ms` says what is wrong
    return time.replace(tzinfo=UTC) if isinstance(time, datetime) and time.tzinfo is None else time


def field_time(field: object) -> RelativeTime:
    """Return the time that a field of a Faust record or of a `msgspec.Struct` holds.

    Raises:
        Usage: it is no field.
    """
    if isinstance(field, MemberDescriptorType):
        return RelativeTime("field", attrgetter(field.__name__), f"{field.__objclass__.__name__}.{field.__name__}")
    get = getattr(field, "getattr", None)
    if get is None:
        raise Usage(
            f"relative_to_field({field!r}): no field of a record's class",
            hint="for example relative_to_field(View.at), of a Faust record or a msgspec.Struct",
        )
    found: Any = field
    return RelativeTime("field", cast("Callable[[Any], Any]", get), f"{found.model.__name__}.{found.field}")


def time_of(given: object) -> RelativeTime:
    """Return what `relative_to(…)` means: a field, a function of the event, a datetime, or seconds since 1970.

    Raises:
        Usage: it is none of these.
    """
    if isinstance(given, RelativeTime):
        return given
    if isinstance(given, (datetime, float, int)) and not isinstance(given, bool):
        return RelativeTime("fixed", time_ms(_zoned(given), "s"), str(given))
    if hasattr(given, "getattr") or isinstance(given, MemberDescriptorType):
        return field_time(given)
    if callable(given):
        return RelativeTime("function", given, getattr(given, "__name__", "a function"))
    raise Usage(f"relative_to({given!r})", hint="a field, a function of the event, a datetime, or seconds since 1970")
