"""`Keyed`: a value that an agent yields with a key. Sends it to sinks, and answers `ask` with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, cast

import msgspec
from mode.utils.futures import maybe_async
from typing_extensions import TypeVar

__all__ = ["Keyed", "answer_of", "send_keyed"]

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Keyed(Generic[K, V]):
    """A value that an agent yields, with the key of its record.

        yield Keyed(order.user, receipt)

    Sinks that are topics or agents receive the value under this key, encoded as they declare it. Functions, and the
    callers of `ask`, receive the value alone. A value that is yielded by itself has no key.
    """

    key: K
    value: V


async def send_keyed(keyed: Keyed[Any, Any], sinks: Iterable[Any]) -> None:
    """Send a value with its key to the sinks of an agent."""
    for sink in sinks:
        if hasattr(sink, "send"):  # a topic, a channel or an agent
            await sink.send(key=keyed.key, value=keyed.value)
        else:
            await maybe_async(sink(keyed.value))


def answer_of(value: object) -> object:
    """Return what an agent has yielded as the answer of `ask`: without its key, and a struct as a dict."""
    plain = cast("Keyed[object, object]", value).value if isinstance(value, Keyed) else value
    return msgspec.to_builtins(plain) if hasattr(plain, "__struct_fields__") else plain
