"""Values as plain Python, for comparisons and snapshots in tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, cast

import msgspec

__all__ = ["plain_value"]


def plain_value(value: object) -> Any:
    """Return a value without objects of the program's classes: structs, dataclasses and Faust records become dicts.

    The app under test may be a copy of its module, whose classes are not those that the test has imported.

    >>> plain_value(msgspec.defstruct("Order", ["user", "tags"])("ann", {1, 2}))
    {'user': 'ann', 'tags': {1, 2}}
    """
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return value.value if isinstance(value, Enum) else value
        case Mapping():
            return {key: plain_value(content) for key, content in cast("Mapping[Any, Any]", value).items()}
        case list():
            return [plain_value(element) for element in cast("list[Any]", value)]
        case tuple():
            return tuple(plain_value(element) for element in cast("tuple[Any, ...]", value))
        case set() | frozenset():
            return set(map(plain_value, cast("set[Any]", value)))
        case msgspec.Struct():
            return {name: plain_value(getattr(value, name)) for name in value.__struct_fields__}
        case Enum():
            return value.value
        case _:
            pass
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_value(getattr(value, field.name)) for field in fields(value)}
    as_dict = getattr(value, "asdict", None)
    return plain_value(as_dict()) if callable(as_dict) else value
