"""What a topic's value type says of CSV columns."""

from __future__ import annotations

import types
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from ..app_loader import load_app

__all__ = ["declared_types", "value_type_of"]

_TYPES = {str: "text", int: "int", float: "float", bool: "bool"}


def declared_types(value_type: Any) -> dict[str, str]:
    """Types of CSV columns by name, as `Format.declared` has them; fields of other types are left to guessing.

    >>> import dataclasses
    >>> declared_types(dataclasses.make_dataclass("Order", [("zip", str), ("fare", float | None), ("at", object)]))
    {'zip': 'text', 'fare': 'float'}
    """
    if not isinstance(value_type, type) or value_type in (dict, list, str, bytes, int, float, bool):
        return {}
    names = {}
    if issubclass(value_type, msgspec.Struct):
        names = {field.name: field.encode_name for field in msgspec.structs.fields(value_type)}
    try:
        hints = get_type_hints(value_type, include_extras=True)
    except (NameError, TypeError):
        return {}
    found: dict[str, str] = {}
    for name, hint in hints.items():
        kind = _kind(hint)
        if kind is not None and not name.startswith("_"):
            found[names.get(name, name)] = kind
    return found


def value_type_of(app_name: str, topic: str) -> Any:
    """What an app declares the values of a topic to be; None where it says nothing.

    Raises:
        Usage: there is no such app.
    """
    for agent in load_app(app_name).agents.values():
        if topic in getattr(agent.channel, "topics", ()):
            return getattr(agent.channel, "value_type", None)
    return None


def _kind(hint: Any) -> str | None:
    """A type of columns; text that may be null is `text?`."""
    if get_origin(hint) is Annotated:
        return _kind(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in get_args(hint) if part is not type(None)]
        kinds = {_kind(part) for part in parts}
        kind = kinds.pop() if len(kinds) == 1 else "float" if kinds == {"int", "float"} else None
        nullable = len(parts) < len(get_args(hint))
        return "text?" if kind == "text" and nullable else kind
    return _TYPES.get(hint)
