"""Private fields: which fields of records must not be shown, and how a value, a key or an error is shown without them.

`app.topic("orders", private=["email", "user.phone"])` and `app.Table(…, private=…)` declare them. All commands, logs
and web views that show data use this module; `docs/privacy.md` says what is hidden where.

A name hides the field of that name at any depth, `user.phone` only a `phone` inside of a `user`; elements of lists are
looked into. `$key` hides the keys of the topic or table, `$value` its values as a whole. A field that is private in one
topic of an app is private in all topics and tables of the app.

What cannot be taken apart is hidden as a whole: a value that is not a JSON object or list, in a topic that declares
private fields itself. Keys and other fields that hold the text of a private field of their record are hidden as well.

The text of an exception may quote anything. As soon as a private field is declared in a process, such texts are hidden
in all of it; see `private_texts.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from .dead_letter import LATE_SUFFIX, SUFFIX
from .private_texts import HIDDEN, hide_texts, shows

__all__ = [
    "KEY",
    "NOTHING",
    "VALUE",
    "PrivateFields",
    "PrivateNames",
    "field_names",
    "holds",
]

KEY, VALUE = "$key", "$value"

# A shorter text of a private field occurs in keys by chance, so that a key is hidden only if it equals it.
_PART_CHARACTERS = 3
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class PrivateFields:
    """The private fields of one topic or table.

    Attributes:
        names: dotted names of fields, and `$key` and `$value`.
        declared: whether the topic declares private fields itself. If so, a value without fields is hidden, because
            a private one might be anywhere in it.
    """

    names: frozenset[str] = frozenset()
    declared: bool = False

    def __bool__(self) -> bool:
        return bool(self.names) and not shows()

    def joined(self, other: PrivateFields) -> PrivateFields:
        """Return the private fields of both."""
        return PrivateFields(self.names | other.names, self.declared or other.declared)

    def has(self, path: str) -> bool:
        """Return whether the field at a dotted path is private."""
        return any(path == name or path.endswith(f".{name}") for name in self.names)

    def value(self, value: object) -> Any:
        """Return a decoded value with its private fields replaced by `***`.

        Args:
            value: plain JSON, or anything that msgspec converts to it.
        """
        if not self:
            return value
        if VALUE in self.names:
            return HIDDEN
        plain = msgspec.to_builtins(value, enc_hook=_plain, str_keys=True)
        if not isinstance(plain, dict | list):
            return HIDDEN if self.declared and plain is not None else plain
        return self._without(plain, "", 0, self._leaves(plain))

    def value_bytes(self, data: bytes | None) -> bytes | None:
        """Return an encoded value as JSON without its private fields."""
        if data is None or not self:
            return data
        if VALUE in self.names:
            return HIDDEN.encode()
        try:
            value = msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return f"{HIDDEN} ({len(data):,} bytes that are not JSON)".encode() if self.declared else data
        return msgspec.json.encode(self.value(value))

    def key(self, key: object, value: object = None) -> Any:
        """Return a decoded key without its private fields.

        Args:
            value: the decoded value of the record: a key that holds the text of one of its private fields is hidden.
        """
        if not self:
            return key
        if KEY in self.names or self._quotes(str(key), value):
            return HIDDEN
        plain = msgspec.to_builtins(key, enc_hook=_plain, str_keys=True)
        if isinstance(plain, dict | list):
            return self._without(plain, "", 0)
        return key

    def key_bytes(self, key: bytes | None, value: bytes | None = None) -> bytes | None:
        """Return an encoded key without its private fields; see `key`."""
        if key is None or not self:
            return key
        if KEY in self.names:
            return HIDDEN.encode()
        plain = _decoded(value)
        if self._quotes(key.decode(errors="replace"), plain):
            return HIDDEN.encode()
        found = _decoded(key)
        return msgspec.json.encode(self._without(found, "", 0)) if isinstance(found, dict | list) else key

    def cell(self, column: str, cell: object) -> Any:
        """Return a cell of a table whose columns are fields of a value."""
        if not self:
            return cell
        if VALUE in self.names or self.has(column):
            return HIDDEN
        return self._without(cell, column, 0) if isinstance(cell, dict | list) else cell

    def quotes(self, text: str, value: bytes | None) -> bool:
        """Return whether a text holds the text of a private field of an encoded value."""
        return self._quotes(text, _decoded(value))

    def _quotes(self, text: str, value: object) -> bool:
        return holds(text, self._leaves(value))

    def _leaves(self, value: object) -> set[str]:
        """Return the texts of the private fields of a decoded value."""
        leaves = set[str]()
        self._collect(value, "", leaves, private=False)
        return leaves

    def _without(self, value: Any, path: str, depth: int, leaves: Collection[str] = ()) -> Any:
        if depth > _MAX_DEPTH:
            return HIDDEN
        if isinstance(value, list | tuple):
            return [self._without(element, path, depth + 1, leaves) for element in cast("list[Any]", value)]
        if not isinstance(value, dict):
            quotes = holds(value, leaves) if isinstance(value, str) else _equals(value, leaves)
            return HIDDEN if quotes else value
        found: dict[str, Any] = {}
        for name, inner in cast("dict[str, Any]", value).items():
            at = f"{path}.{name}" if path else str(name)
            found[name] = HIDDEN if self.has(at) else self._without(inner, at, depth + 1, leaves)
        return found

    def _collect(self, value: Any, path: str, leaves: set[str], *, private: bool, depth: int = 0) -> None:
        """Add the texts of private fields to `leaves`."""
        if depth > _MAX_DEPTH:
            return
        if isinstance(value, dict):
            for name, inner in cast("dict[str, Any]", value).items():
                at = f"{path}.{name}" if path else str(name)
                self._collect(inner, at, leaves, private=private or self.has(at), depth=depth + 1)
        elif isinstance(value, list | tuple):
            for element in cast("list[Any]", value):
                self._collect(element, path, leaves, private=private, depth=depth + 1)
        elif private and value is not None and value != "":
            leaves.add(str(value))


NOTHING = PrivateFields()


@dataclass(slots=True)
class PrivateNames:
    """The private fields that an app declares.

    Attributes:
        app: the app's id.
        topics: topic -> the names that it declares; the changelog stands for a table. Names of the app's own topics
            are without the app's id and the id of a run.
    """

    app: str
    topics: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])

    def declare(self, topic: str, names: Iterable[str]) -> None:
        """Add private fields of a topic."""
        if found := frozenset(names):
            topic = self._short(topic)
            self.topics[topic] = self.topics.get(topic, frozenset()) | found
            hide_texts()

    @property
    def shared(self) -> frozenset[str]:
        """The names that count in all topics and tables of the app."""
        return frozenset[str]().union(*self.topics.values()) - {KEY, VALUE}

    def of(self, topic: str) -> PrivateFields:
        """Return the private fields of a topic of this app, of a dead-letter topic, or of a changelog."""
        if not self.topics:
            return NOTHING
        short = self._short(topic)
        own = self.topics.get(short)
        if own is None and self.owns(topic):  # such as <app>-run-<id>-<topic>, <app>-<agent>-<topic>-retry
            own = frozenset[str]().union(*(names for name, names in self.topics.items() if f"-{name}" in f"-{short}"))
        own = own or frozenset()
        return PrivateFields(own | self.shared, declared=bool(own - {KEY}))

    def owns(self, topic: str) -> bool:
        """Return whether a topic declares private fields, or has a name that begins with the app's id."""
        return self._short(topic) in self.topics or topic.startswith(f"{self.app}-")

    def _short(self, topic: str) -> str:
        topic = topic.removesuffix(SUFFIX).removesuffix(LATE_SUFFIX).removeprefix(f"{self.app}-")
        return re.sub(r"^run-[^-]+-", "", topic)


def holds(text: str, leaves: Collection[str]) -> bool:
    """Return whether a text is one of some texts, or holds one that is not too short to be there by chance."""
    return any(text == leaf or (len(leaf) >= _PART_CHARACTERS and leaf in text) for leaf in leaves)


def _equals(value: object, leaves: Collection[str]) -> bool:
    return (
        bool(leaves) and type(value) in (int, float) and len(text := str(value)) >= _PART_CHARACTERS and text in leaves
    )


def field_names(declared: object) -> Mapping[str, str] | None:
    """Return the fields of a declared type at any depth: their names in Python and in JSON -> their names in JSON.

    Returns:
        None if the type does not tell all of its fields.
    """
    options = getattr(declared, "_options", None)
    if options is not None and hasattr(declared, "from_data"):  # a Faust record
        return None
    try:
        info = msgspec.inspect.type_info(declared)
    except (TypeError, NameError, RecursionError):
        return None
    found: dict[str, str] = {}
    return found if _add_fields(info, found, set()) else None


def _add_fields(info: Any, found: dict[str, str], seen: set[object]) -> bool:
    """Add the fields of a type to `found`; return False if it may have others."""
    if isinstance(info, msgspec.inspect.AnyType | msgspec.inspect.RawType | msgspec.inspect.CustomType):
        return False
    if isinstance(info, msgspec.inspect.DictType):
        return False  # whose keys are fields, too
    fields: Collection[Any] = getattr(info, "fields", ())
    if fields:
        if info.cls in seen:
            return True
        seen.add(info.cls)
        for each in fields:
            found[each.name] = found[each.encode_name] = each.encode_name
        return all(_add_fields(each.type, found, seen) for each in fields)
    inner = [getattr(info, "item_type", None), *getattr(info, "item_types", ()), *getattr(info, "types", ())]
    return all(_add_fields(each, found, seen) for each in inner if each is not None)


def _decoded(data: bytes | None) -> object:
    try:
        return None if data is None else msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _plain(value: Any) -> object:
    return value.asdict() if hasattr(value, "asdict") else str(value)
