"""Processors: what a stream does with each value before its agent gets it.

They run in the order in which they were written, and each where it was written: what stands before a `group_by`, a
`through` or an `echo` runs before the record goes on, and what was filtered out there does not go on. (Faust moves the
processors of a stream behind its `group_by` or `through`.)

A record goes on with its own bytes where only filters stand before; behind any other processor it goes on with the
value as it is then, encoded by the topic that it goes to. Key, headers and timestamp are those of the record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from faust.exceptions import Skip
from mode.utils.futures import maybe_async

if TYPE_CHECKING:
    from .stream import Stream

__all__ = ["Processor", "changing", "filtering", "keyed_by", "passing_on"]

Processor = Callable[[Any], Awaitable[Any]]

_KEEPS = "anabranch_keeps_values"


def changing(processors: Iterable[Any]) -> bool:
    """Whether values may come out of them otherwise than they went in."""
    return not all(getattr(processor, _KEEPS, False) for processor in processors)


def filtering(function: Any) -> Processor:
    """A processor that leaves out values of which a function, async or not, says no."""

    async def filtered(value: Any) -> Any:
        if not await maybe_async(function(value)):
            raise Skip
        return value

    return _keeping(filtered)


def keyed_by(key: Any) -> Processor:
    """Gives the key of a value: a field of a Faust model, or what a function, async or not, makes of it.

    Faust logs an error of the function and drops the record; here it goes to the agent's policy like any other.
    """

    async def key_of(value: Any) -> Any:
        return key.getattr(value) if hasattr(key, "getattr") else await maybe_async(key(value))

    return key_of


def passing_on(
    stream: Stream[Any], targets: Sequence[Any], key_of: Processor | None = None, *, changed: bool
) -> Processor:
    """A processor that sends each record on to channels.

    Faust does this in tasks of their own, which are nobody's when it comes to undoing them.

    Args:
        key_of: gives the record's new key; without it, it keeps its own.
        changed: processors before this one may have changed its value.
    """

    async def passed_on(value: Any) -> Any:
        event = stream.current_event
        if event is None:
            raise RuntimeError("a stream of a channel in memory has no records to send on")
        more: dict[str, Any] = {"value": value} if changed else {}
        if key_of is not None:
            more["key"] = await key_of(value)
        for target in targets:
            await event.forward(target, **more)
        return value

    return _keeping(passed_on)


def _keeping(processor: Processor) -> Processor:
    setattr(processor, _KEEPS, True)
    return processor
