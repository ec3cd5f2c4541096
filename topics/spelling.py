"""The suggestion for a misspelled name: of a command, an option, a table, a topic, an agent, a setting."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

__all__ = ["check_options", "did_you_mean", "nearest"]


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name that is most similar to a misspelled one; None if none is similar.

    Upper and lower case make no difference.

    Args:
        cutoff: least similarity, from 0 to 1 (equal).
    """
    folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), folded, 1, cutoff=cutoff)
    return folded[near[0]] if near else None


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return a question that names the nearest known name, for the hint of an error.

    Args:
        otherwise: returned if no known name is similar.

    >>> did_you_mean("partitons", ["partitions", "help"])
    'did you mean partitions?'
    """
    near = nearest(name, known)
    return otherwise if near is None else f"did you mean {near}?"


def check_options(function: str, given: Iterable[str], known: Collection[str]) -> None:
    """Refuse options that a function does not have.

    Args:
        function: its name, for the error.

    Raises:
        TypeError: names the option, and the nearest that exists.
    """
    for name in given:
        if name not in known:
            near = did_you_mean(name, known)
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}" + (f": {near}" if near else ""))
