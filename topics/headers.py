"""The headers of a record, safe for names that are not UTF-8.

Kafka does not check header names, and producers in C or Go write the bytes that they are given. confluent_kafka cannot
decode such a name: `Message.headers()` sets an exception and still returns a list, with a C NULL in place of the name.
Called from C code, that is a `SystemError`. Called from bytecode that the interpreter has specialised, it is not
noticed, and reading the NULL ends the process. Each later call returns the same list without an exception. So no
other file of this project calls it (`tests/test_tidy.py`), and the list is replaced as soon as it is found.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from operator import methodcaller
from typing import Any

from .errors import BadRecord
from .producer import Headers

__all__ = [
    "CONTROL_HEADER",
    "UNREADABLE",
    "UnreadableHeaders",
    "all_headers",
    "copied_headers",
    "headers_of",
    "without_control",
]

CONTROL_HEADER = "anabranch-control"
"""The header that makes a record of some topics a control record; see `control_records.py`."""

_logger = logging.getLogger("anabranch.headers")

# It calls from C, which checks for the exception. `message.headers()` in Python does not, once it is specialised.
_ask_one: Any = methodcaller("headers")

_FAULTS = (SystemError, UnicodeDecodeError)


class _Unreadable(tuple[tuple[str, bytes | None], ...]):
    """An empty list of headers in place of unreadable ones."""

    __slots__ = ()


UNREADABLE: Headers = _Unreadable()
"""Stands for headers that cannot be read; empty, so that callers that do not compare find no headers."""


class UnreadableHeaders(BadRecord):
    """A record has a header whose name is not UTF-8."""

    def __init__(self) -> None:
        super().__init__("a header name that is not UTF-8", hint="its producer has to write header names as UTF-8")


def headers_of(message: Any) -> Headers | None:
    """Return the headers of a record or a row; `UNREADABLE` if a name is not UTF-8."""
    try:
        return _ask_one(message)
    except _FAULTS:
        message.set_headers(UNREADABLE)
        return UNREADABLE


def all_headers(messages: Sequence[Any]) -> tuple[list[Headers | None], list[int]]:
    """Return the headers of each record, and the numbers of the records whose headers are `UNREADABLE`.

    Args:
        messages: all of one class.
    """
    # Eight times as fast as `_ask_one`, and `map` calls it from C as well.
    ask: Any = type(messages[0]).headers if messages else None
    found: list[Headers | None] = []
    unreadable: list[int] = []
    left = iter(messages)
    while True:
        try:
            found.extend(map(ask, left))
            return found, unreadable
        except _FAULTS:
            # The headers of the records before it are in the list. A second call would return the list with the NULL.
            number = len(found)
            messages[number].set_headers(UNREADABLE)
            found.append(UNREADABLE)
            unreadable.append(number)


def without_control(headers: Headers) -> Headers:
    """Return headers as a copy of their record has them in another topic or in an archive: without `CONTROL_HEADER`.

    There it could make an ordinary record a control record.
    """
    if any(name == CONTROL_HEADER for name, _ in headers):
        return [(name, value) for name, value in headers if name != CONTROL_HEADER]
    return headers


def copied_headers(messages: Sequence[Any]) -> list[Headers | None]:
    """Return the headers of each record as a copy of it has them; see `without_control`.

    Where they are unreadable the copy has none, and a warning names the record.
    """
    found, unreadable = all_headers(messages)
    if any(found):
        found = [headers and (without_control(headers) or None) for headers in found]
    for number in unreadable:
        found[number] = None
        message = messages[number]
        _logger.warning(
            "%s[%d]@%d: a header name that is not UTF-8; the record is processed without its headers",
            message.topic(),
            message.partition(),
            message.offset(),
        )
    return found
