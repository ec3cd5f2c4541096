"""Keys of flows that hold a private field."""

from __future__ import annotations

from ...topics.private_fields import PrivateFields
from .expressions import FieldReference, Function, Operation

__all__ = ["shows_private"]


def shows_private(what: object, private: PrivateFields) -> bool:
    """Return whether a key of `key_by` shows a private field: a field's name, or an expression of one.

    A pseudonym does not show it. Of other functions it is not known: `$key` hides their keys.
    """
    match what:
        case str():
            return private.has(what)
        case FieldReference(name):
            return private.has(name)
        case Operation(_, left, right):
            return shows_private(left, private) or shows_private(right, private)
        case Function(name, of):
            return name != "pseudonym" and shows_private(of, private)
        case _:
            return False
