"""A record as a consumer of Kafka in memory gets it."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Message

__all__ = ["MemoryMessage"]


class MemoryMessage(Message):
    """confluent_kafka's message, which refuses headers with a name that is not UTF-8 as that does when C code asks."""

    __slots__ = ()

    def headers(self) -> Any:
        """Return the headers; None if there are none.

        Raises:
            SystemError: a name is not UTF-8. `set_headers` replaces such headers.
        """
        found: Any = super().headers()
        for name, _ in found or ():
            try:
                name.encode()
            except UnicodeEncodeError as exc:
                raise SystemError("a header name that is not UTF-8") from exc
        return found
