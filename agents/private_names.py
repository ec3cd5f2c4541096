"""The names in `private=…` of topics and tables, checked when they are declared."""

from __future__ import annotations

from collections.abc import Collection

from ..topics.errors import Usage
from ..topics.private_fields import KEY, VALUE, field_names
from ..topics.spelling import did_you_mean

__all__ = ["checked_names"]


def checked_names(of: str, names: Collection[str], value_type: object) -> list[str]:
    """Return the names of private fields as they are in JSON, and as they are in Python.

    Args:
        of: the topic or table, for the error.
        value_type: its declared type; a type that tells all of its fields has to have the named ones.

    Raises:
        Usage: they are no names, or the type has no such field.
    """
    if isinstance(names, str) or not all(name and name.strip(".") for name in names):
        raise Usage(f"{of}: private={names!r}", hint='a list of names of fields: private=["email", "user.phone"]')
    known = None if value_type is None else field_names(value_type)
    found: list[str] = []
    for name in names:
        if name.startswith("$") and name not in (KEY, VALUE):
            raise Usage(f"{of}: private={name!r}", hint=f"{KEY} for the key, {VALUE} for the whole value")
        found.append(name)
        if known is None or name.startswith("$"):
            continue
        for part in name.split("."):
            if part not in known:
                hint = did_you_mean(part, known) if known else f"{VALUE} hides the whole value"
                raise Usage(f"{of}: private={name!r}: its type has no field {part}", hint=hint)
        found.append(".".join(known[part] for part in name.split(".")))
    return sorted(set(found))
