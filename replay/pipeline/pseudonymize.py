"""Replaces private fields of records by pseudonyms, in replays, runs and archives: `--pseudonym email --pseudonym-key
env:NAME`.

The fields are named as in `private=[…]` of a topic: `email` at any depth, `user.phone`, and `$key` for the key. Text
and whole numbers are replaced, also in lists; null stays null. A key or a header that is the text of a replaced field
is replaced as well.

A record that would still tell the person is a bad line, and an archive refuses it: its value is not a JSON object, a
field holds something else than text and whole numbers, a key or a header holds the text of a field and more, or it is a
tombstone whose key might be private (`$key` says that it is). Texts in other fields are not looked into.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from ...topics.errors import Usage
from ...topics.private_fields import KEY, PrivateFields, holds
from ...topics.producer import Headers
from ...topics.pseudonyms import check_key_name, key_check, pseudonym_of
from ..sources.source_record import BadLine, SourceRecord
from .selection import Step

__all__ = ["Pseudonyms"]


@dataclass(frozen=True)
class Pseudonyms:
    """The fields that are replaced.

    Attributes:
        fields: dotted names, and `$key`.
        key: the name of the secret key; see `topics/pseudonyms.py`.
    """

    fields: tuple[str, ...]
    key: str

    @classmethod
    def parsed(cls, fields: Sequence[str], key: str | None) -> Pseudonyms | None:
        """Return what `--pseudonym` and `--pseudonym-key` say; None if neither is given.

        Raises:
            Usage: one is missing, or the key is not named.
        """
        if not fields and key is None:
            return None
        if not fields or key is None:
            raise Usage(
                "--pseudonym and --pseudonym-key go together",
                hint="--pseudonym email --pseudonym-key env:PSEUDONYM_KEY",
            )
        return cls(tuple(fields), check_key_name(key))

    @cached_property
    def _private(self) -> PrivateFields:
        return PrivateFields(frozenset(self.fields))

    def identity(self) -> dict[str, object]:
        """Return what decides the pseudonyms, without telling the key, as plain JSON.

        Raises:
            Usage: the key cannot be read.
        """
        return {"pseudonyms": list(self.fields), "pseudonym_key": key_check(self.key)}

    def step(self) -> Step:
        """Return a step that gives records pseudonyms, and makes bad lines of the others."""
        seen = 0

        def step(items: Sequence[SourceRecord], bad: list[BadLine]) -> list[SourceRecord]:
            nonlocal seen
            found: list[SourceRecord] = []
            for number, item in enumerate(items, seen + 1):
                try:
                    found.append(self._replaced(item))
                except (ValueError, TypeError, RecursionError) as exc:
                    bad.append(BadLine("record", number, f"--pseudonym: {exc}", item[1] or b""))
            seen += len(items)
            return found

        return step

    def _replaced(self, item: SourceRecord) -> SourceRecord:
        key, value, time_ms, headers, partition = item
        shown, value, headers = self.replaced(key, value, headers)
        # Its partition is that of the key before.
        return shown, value, time_ms, headers, partition if shown == key else None

    def replaced(
        self, key: bytes | None, value: bytes | None, headers: Headers | None
    ) -> tuple[bytes | None, bytes | None, Headers | None]:
        """Return key, value and headers of a record with pseudonyms.

        Raises:
            ValueError, TypeError, RecursionError: the record would still tell the person; the text holds no data.
            Usage: the key of the pseudonyms cannot be read.
        """
        made: dict[str, str] = {}
        if value is not None:
            decoded = msgspec.json.decode(value)
            if not isinstance(decoded, dict):
                raise ValueError("the value is not a JSON object")
            value = msgspec.json.encode(self._walked(decoded, "", made))
        elif KEY not in self.fields:
            raise ValueError("a record without a value: add --pseudonym '$key' if its key is private")
        shown = self._text(key, made, whole=KEY in self.fields)
        if headers is not None:
            headers = [(name, self._text(content, made)) for name, content in headers]
        return shown, value, headers

    def _walked(self, value: Any, path: str, made: dict[str, str]) -> Any:
        if isinstance(value, list):
            return [self._walked(element, path, made) for element in value]
        if isinstance(value, dict):
            walked: dict[str, Any] = {}
            for name, inner in value.items():
                at = f"{path}.{name}" if path else name
                walked[name] = (
                    self._pseudonyms(inner, at, made) if self._private.has(at) else self._walked(inner, at, made)
                )
            return walked
        return value

    def _pseudonyms(self, value: Any, path: str, made: dict[str, str]) -> Any:
        if isinstance(value, list):
            return [self._pseudonyms(element, path, made) for element in value]
        try:
            found = pseudonym_of(value, self.key)
        except TypeError as exc:
            raise ValueError(f"{path}: {exc}") from None
        if found is not None:
            made[str(value)] = found
        return found

    def _text(self, data: bytes | None, made: dict[str, str], *, whole: bool = False) -> bytes | None:
        """Return the pseudonym of a key or header that is the text of a replaced field; other texts unchanged."""
        if data is None:
            return None
        text = data.decode(errors="surrogateescape")
        if whole:
            return (pseudonym_of(text, self.key) or "").encode()
        if text in made:
            return made[text].encode()
        if holds(text, made):
            raise ValueError("its key or a header holds the text of a replaced field and more")
        return data
