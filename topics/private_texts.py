"""Whether this process hides texts that may quote a private field, and how it shows an error without its text.

The text of an exception may quote anything: `ValueError(f"no address: {order.email}")`. So as soon as a topic or a
table of a process has private fields (`private_fields.py`), the texts of exceptions are hidden in all of the process,
except those of which it is known that they hold no data. Their types and the lines that raised them are shown.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator
from types import TracebackType

import msgspec

__all__ = [
    "HIDDEN",
    "HIDDEN_TEXT",
    "chained",
    "forget",
    "hide_texts",
    "hides_texts",
    "is_raised_here",
    "known_text",
    "show",
    "shown_key",
    "shown_text",
    "shows",
    "traceback_text",
]

HIDDEN = "***"
HIDDEN_TEXT = "(text hidden: it may quote a private field)"
_SHOW = "ANABRANCH_SHOW_PRIVATE"

_PACKAGE = __name__.partition(".")[0] + "."

# What msgspec says of a type and a place. Texts of `__post_init__` begin otherwise.
_OF_TYPES = re.compile(
    r"(?:Expected `[^`']*`(?:, got `[^`']*`| of length [<>= \d]+| [<>=]+ [-\d.]+)?"
    r"|Object missing required field `[^`']*`|Array of length \d+)(?: - at `[^`']*`)?"
)
_SYNTAX = ("JSON is malformed", "Input data was truncated", "Invalid UTF-8 encoded string")


_private = False  # whether this process handles records with private fields


def hide_texts() -> None:
    """Hide the texts of exceptions in this process from now on: it handles records with private fields."""
    global _private
    _private = True


def hides_texts() -> bool:
    """Return whether texts that may quote a private field are hidden in this process."""
    return _private and not shows()


def forget() -> None:
    """Forget that this process handles private fields; for tests."""
    global _private
    _private = False


def show() -> None:
    """Show private fields in this process and in those that it starts (`--show-private`)."""
    os.environ[_SHOW] = "1"


def shows() -> bool:
    """Return whether private fields are shown on purpose."""
    return os.environ.get(_SHOW, "") not in ("", "0")


def shown_text(text: str) -> str:
    """Return a text that may quote data, such as the reason of a bad line; `HIDDEN_TEXT` if such texts are hidden."""
    return HIDDEN_TEXT if text and hides_texts() else text


def shown_key(key: object) -> str:
    """Return a key as text for messages; `***` if such texts are hidden."""
    return HIDDEN if hides_texts() else repr(key)


def known_text(error: BaseException) -> str | None:
    """Return the text of an error of a library if it certainly holds no data; else None."""
    if type(error) in (msgspec.ValidationError, msgspec.DecodeError):
        text = str(error)
        return text if _OF_TYPES.fullmatch(text) or text.startswith(_SYNTAX) else None
    if isinstance(error, OSError) and error.errno is not None:
        return f"[Errno {error.errno}] {os.strerror(error.errno)}"
    return None


def is_raised_here(error: BaseException) -> bool:
    """Return whether code of this package has raised an error, or made it without raising it."""
    at: TracebackType | None = error.__traceback__
    if at is None:
        return True
    while at.tb_next is not None:
        at = at.tb_next
    return str(at.tb_frame.f_globals.get("__name__", "")).startswith(_PACKAGE)


def chained(error: BaseException) -> Iterator[BaseException]:
    """Return an error, and those that caused it or that it holds."""
    seen: set[int] = set()
    left: list[BaseException] = [error]
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        left += [other for other in (each.__cause__, each.__context__) if other is not None]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions


def traceback_text(error: BaseException, text_of: dict[int, str]) -> str:
    """Return a traceback in which each error has another text.

    Args:
        text_of: the texts, by the `id` of the errors.
    """
    found = traceback.TracebackException.from_exception(error)
    _replace(found, error, text_of, set())
    return "".join(found.format()).rstrip("\n")


def _replace(
    found: traceback.TracebackException, error: BaseException, text_of: dict[int, str], seen: set[int]
) -> None:
    if id(found) in seen:
        return
    seen.add(id(found))
    if isinstance(error, SyntaxError):  # it shows the line that it could not parse
        for name, value in (("text", None), ("filename", None), ("msg", text_of.get(id(error), HIDDEN_TEXT))):
            setattr(found, name, value)
    found._str = text_of.get(id(error), HIDDEN_TEXT)  # pyright: ignore[reportAttributeAccessIssue]
    found.__notes__ = None
    for part, of in ((found.__cause__, error.__cause__), (found.__context__, error.__context__)):
        if part is not None and of is not None:
            _replace(part, of, text_of, seen)
    if found.exceptions and isinstance(error, BaseExceptionGroup):
        for part, of in zip(found.exceptions, error.exceptions, strict=False):
            _replace(part, of, text_of, seen)
