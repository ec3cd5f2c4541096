"""Pseudonyms: keyed hashes that stand for a value, so that records of one person stay together without naming it.

A pseudonym is the HMAC-SHA-256 of the value's text in UTF-8 under a secret key, cut to its first 128 bits, as 32
hexadecimal digits. The same value has the same pseudonym under the same key, in flows, replays and archives, in every
field; without the key nobody can compute it, not even by trying all e-mail addresses. Two of 10 billion values have the
same pseudonym with a probability of 10^-19.

Text and whole numbers have pseudonyms, 7 that of "7"; None stays None; other values are refused.

The key is named, never given: `env:NAME` reads an environment variable and `file:PATH` a file, without the line end. It
has at least 16 bytes, and is used as it is. Whoever loses it cannot connect later records of a person with earlier
ones; whoever deletes it makes the pseudonyms anonymous.
"""

from __future__ import annotations

import hmac
import os
from functools import lru_cache
from pathlib import Path

from .errors import Usage
from .printable import hide_secrets

__all__ = ["check_key_name", "key_check", "pseudonym_of"]

_DIGITS = 32
_MIN_KEY_BYTES = 16
_SCHEMES = ("env:", "file:")


def pseudonym_of(value: object, key: str) -> str | None:
    """Return the pseudonym of a text or a whole number, 32 hexadecimal digits; None for None.

    Args:
        key: the name of the key, as in `env:NAME` or `file:PATH`.

    Raises:
        TypeError: the value is neither.
        Usage: the key cannot be read.
    """
    if value is None:
        return None
    if type(value) is int:
        value = str(value)
    if not isinstance(value, str):
        raise TypeError(f"a pseudonym of text or a whole number, not of {type(value).__name__}")
    return hmac.digest(_key(key), value.encode("utf-8", "surrogatepass"), "sha256").hex()[:_DIGITS]


def check_key_name(key: object) -> str:
    """Return the name of a key, unread.

    Raises:
        Usage: it is no name; the error does not show it, because it may be a key.
    """
    if isinstance(key, str):
        for scheme in _SCHEMES:
            if key.startswith(scheme) and len(key) > len(scheme):
                return key
    raise Usage(
        "pseudonym: key=… has to name the key, not to be it",
        hint="key='env:NAME' reads an environment variable, key='file:PATH' a file",
    )


def key_check(key: str) -> str:
    """Return a text that differs for another key and does not tell it.

    Raises:
        Usage: the key cannot be read.
    """
    return hmac.digest(_key(key), b"\x00anabranch key check", "sha256").hex()[:8]


@lru_cache(maxsize=64)
def _key(name: str) -> bytes:
    scheme, _, place = check_key_name(name).partition(":")
    if scheme == "env":
        found = os.environ.get(place, "").encode("utf-8", "surrogateescape")
        if not found:
            raise Usage(f"pseudonym: the environment variable {place} is not set", hint="it has to hold the secret key")
    else:
        try:
            found = Path(place).read_bytes().rstrip(b"\r\n")
        except OSError as exc:
            raise Usage(f"pseudonym: the key file {place} cannot be read: {exc.strerror}") from None
    hide_secrets([found.decode(errors="replace")])
    if len(found) < _MIN_KEY_BYTES:
        raise Usage(
            f"pseudonym: the key {name} has {len(found)} bytes; at least {_MIN_KEY_BYTES} are needed",
            hint="openssl rand -hex 32 makes one",
        )
    return found
