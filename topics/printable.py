"""Text from outside, made safe for terminals, logs and stored state.

A key, a file name or an exception's message may contain characters that control a terminal: escape sequences that clear
the screen or set its title, backspaces that hide a word, characters that reverse the direction of reading. A URL may
hold a password.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["forget_secrets", "hide_secrets", "printable", "utf8", "without_passwords"]

_SHORTEST_SECRET = 4  # hiding a shorter value would mask parts of ordinary words

_secrets: set[str] = set()

# C0 without tab and line feed, DEL, C1; then separators and invisible format characters, which end a line or change the
# order in which it is read; surrogates stand for bytes that are not UTF-8, and cannot be written.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_LINE_ENDS = re.compile("[\t\n]")

_USER = re.compile(r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]*://)([^\s/?#@'\"]*):([^\s/?#'\"]+)@")
_SIGNED = re.compile(
    r"([?&](?:[^\s=&#]*(?:password|passwd|secret|token|signature|credential|api_?key|accesskeyid)|sig|pwd|key)=)[^\s&#'\"]+",
    re.IGNORECASE,
)


def printable(text: object, *, one_line: bool = False) -> str:
    r"""Return a text with control characters escaped, as in `\x1b` and `\u202e`.

    Args:
        one_line: escape tabs and line feeds, too.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    found = str(text)
    if found.isascii() and found.isprintable():
        return found
    found = _UNSAFE.sub(_escaped, found)
    return _LINE_ENDS.sub(_escaped, found) if one_line else found


def utf8(text: str) -> str:
    r"""Return a path as valid UTF-8: bytes that are not UTF-8 (surrogates in Python) become `\xff`.

    >>> utf8("caf\udce9.csv")
    'caf\\xe9.csv'
    """
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def hide_secrets(values: Iterable[str]) -> None:
    """Have `without_passwords` replace these values, such as those of secret client options, in this process."""
    _secrets.update(value for value in values if len(value) >= _SHORTEST_SECRET)


def forget_secrets() -> None:
    """Forget the values of `hide_secrets`; for tests."""
    _secrets.clear()


def without_passwords(text: str) -> str:
    """Return a text without the passwords and signatures of its URLs, and without this process's secrets.

    >>> without_passwords("https://ann:pass@host/a.csv?sig=1f0c&v=2")
    'https://ann:***@host/a.csv?sig=***&v=2'
    """
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    if "://" not in text:
        return text
    return _SIGNED.sub(r"\1***", _USER.sub(r"\1\2:***@", text))


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if 0xDC80 <= ord(character) <= 0xDCFF:
        return f"\\x{ord(character) - 0xDC00:02x}"
    # The same as in JSON.
    return repr(character)[1:-1] if character < " " else f"\\u{ord(character):04x}"
