"""What an agent yields, with a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from typing_extensions import TypeVar

__all__ = ["Keyed"]

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
