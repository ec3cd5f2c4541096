"""`ABSENT` and `UNTOUCHED`, which stand for values that a layer of a table does not have."""

from __future__ import annotations

from enum import Enum
from typing import Final

__all__ = ["ABSENT", "UNTOUCHED", "Absent"]


class Absent(Enum):
    """The type of `ABSENT`."""

    ABSENT = object()  # an encoder that is given it by mistake raises TypeError, because it cannot encode this value

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent.ABSENT
"""No value: written, it deletes the key; a read returns it if the key does not exist."""


class Untouched(Enum):
    """The type of `UNTOUCHED`."""

    UNTOUCHED = object()


UNTOUCHED: Final = Untouched.UNTOUCHED
"""The epoch has neither written nor deleted the key."""
