"""Processors: what a stream does with each value before its agent gets it.

They run in the order in which they were written, each where it was written: processors before a `group_by`, a `through`
or an `echo` run before the record is forwarded, and values that a filter skips there are not forwarded. (Faust moves
the processors of a stream behind its `group_by` or `through`.)

Behind filters only, a record is forwarded with its own bytes; behind any other processor it is forwarded with its
current value, encoded by the target topic. Key, headers and timestamp are those of the record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from operator import attrgetter
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any

from faust.exceptions import Skip
from mode.utils.futures import maybe_async

from ..topics.errors import Usage
from .forwarded_time import without_time

if TYPE_CHECKING:
    from .stream import Stream

__all__ = ["Processor", "changing", "filtering", "key_function", "keyed_by", "passing_on"]

Processor = Callable[..., Awaitable[object]]

_KEEPS = "anabranch_keeps_values"


def changing(processors: Iterable[object]) -> bool:
    """Return whether processors may change values."""
    return not all(getattr(processor, _KEEPS, False) for processor in processors)


def filtering(function: Callable[..., object]) -> Processor:
    """Return a processor that skips values for which a function, async or not, is false."""

    async def filtered(value: object) -> object:
        if not await maybe_async(function(value)):
            raise Skip
        return value

    return _keeping(filtered)


def key_function(key: Any) -> tuple[Any, str | None]:
    """Return the key of `group_by` as a function or a Faust field, and what a field calls its repartition topic.

    Raises:
        Usage: it is neither a function nor a field.
    """
    if isinstance(key, MemberDescriptorType):  # a field of a msgspec.Struct, or of another class with slots
        return attrgetter(key.__name__), f"{key.__objclass__.__name__}.{key.__name__}"
    if not callable(key) and not hasattr(key, "getattr"):
        raise Usage(
            f"group_by({key!r}): neither a function of the value nor a field of its class",
            hint='for example group_by(lambda order: order.user, name="by-user")',
        )
    return key, getattr(key, "ident", None)


def keyed_by(key: Any) -> Processor:
    """Return a function of a value's key: a field of a Faust model, or the result of a function, async or not.

    Faust logs an error of the function and drops the record; here it goes to the agent's failure policy.
    """

    async def key_of(value: object) -> object:
        return key.getattr(value) if hasattr(key, "getattr") else await maybe_async(key(value))

    return key_of


def passing_on(stream: Stream, targets: Sequence[Any], key_of: Processor | None = None, *, changed: bool) -> Processor:
    """Return a processor that forwards each record to channels.

    Faust does this in separate tasks, which a rollback would not cover.

    Args:
        key_of: returns the record's new key; None keeps its own.
        changed: processors before this one may have changed the value.
    """

    async def passed_on(value: object) -> object:
        event = stream.current_event
        if event is None:
            raise RuntimeError("a stream of an in-memory channel has no records to forward")
        more: dict[str, Any] = {"value": value} if changed else {}
        if key_of is not None:
            more["key"] = await key_of(value)
            windows = stream.windows
            if windows is not None and windows.forwarded is not None:
                more["headers"] = {**without_time(event.headers), **windows.forwarding(value)}
        for target in targets:
            await event.forward(target, **more)
        return value

    return _keeping(passed_on)


def _keeping(processor: Processor) -> Processor:
    setattr(processor, _KEEPS, True)
    return processor
