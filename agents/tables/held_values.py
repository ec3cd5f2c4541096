"""The mutable values that agents hold of one partition of a table, and how they were when agents got them."""

from __future__ import annotations

from typing import Any

from ...topics.serde import Codec
from .absent import ABSENT

__all__ = ["HeldValues"]


class HeldValues:
    """The mutable values of a partition in an epoch: their originals, and those that no agent holds any more.

    Args:
        values: codec of the table's values.
        sets: whether the values are sets; a key whose set is empty does not exist.

    Attributes:
        originals: the mutable values that agents have read and may have changed in place. (key, id of the object that
            the agent was given) -> (that object, its bytes when it was given out, True if the key existed or False if
            the value is the table's default). A value counts as changed when its bytes differ. The id is part of the
            key, because rolling back one record must restore what an earlier record was given.
        detached: key -> (value, its bytes) of values in the uncommitted writes or in the epoch that no agent holds any
            more, as they were at the end of a record.
    """

    __slots__ = ("_sets", "_values", "detached", "originals")

    def __init__(self, values: Codec, *, sets: bool = False) -> None:
        self._values, self._sets = values, sets
        self.originals: dict[tuple[object, int], tuple[object, bytes, bool]] = {}
        self.detached: dict[object, tuple[object, bytes]] = {}

    def clear(self) -> None:
        """Forget everything: the epoch has ended."""
        self.originals.clear()
        self.detached.clear()

    def keep_original(self, key: object, value: object, *, existed: bool) -> None:
        """Keep the bytes of a mutable value before an agent is given it.

        Args:
            existed: False if the value is the table's default.
        """
        self.originals[key, id(value)] = (value, self._values.encode(value), existed)

    def exists(self, key: object, value: object) -> bool:
        """True if a value found in the uncommitted writes or the epoch counts as a key.

        A default that was only read does not, nor does an empty set.
        """
        if value is ABSENT or (self._sets and self.is_empty_set(value)):
            return False
        original = self.originals.get((key, id(value))) if self.originals else None
        return original is None or original[2] or self._values.draft(value) != original[1]

    def is_empty_set(self, value: object) -> bool:
        """Return whether a value is an empty set of a table of sets, so that its key does not exist."""
        return self._sets and type(value) is set and not value

    def existed(self, key: object, value: object) -> bool:
        """Return whether an agent was given this value of a key that exists, and has not assigned it."""
        original = self.originals.get((key, id(value)))
        return original is not None and original[2] and not self.is_empty_set(value)

    @property
    def may_be_unchanged(self) -> bool:
        """True if the epoch may hold values that were only read, or empty sets."""
        return self._sets or bool(self.originals)

    def encoded(self, epoch: dict[object, Any]) -> list[bytes]:
        """Return the bytes of the values of an epoch without deletions; those of detached values are known already.

        Raises:
            BadRecord: a value cannot be kept.
        """
        detached = self.detached
        if not detached:
            return self._values.keep_all(epoch.values())
        known = {key: detached[key][1] for key, value in epoch.items() if key in detached and detached[key][0] is value}
        others = [key for key in epoch if key not in known]
        known |= zip(others, self._values.keep_all([epoch[key] for key in others]), strict=True)
        return [known[key] for key in epoch]

    def private_copy(self, key: object, value: object) -> Any:
        """Return an equal value that shares nothing with `value` and is compared with the same original."""
        copy = self._values.decode(self._values.encode(value))
        original = self.originals.get((key, id(value)))
        if original is not None:
            self.originals[key, id(copy)] = (copy, original[1], original[2])
        return copy

    def detach(self, key: object, value: object) -> Any:
        """Return an equal value that shares nothing with the one that an agent held during a record.

        Returns:
            The copy; ABSENT if the agent has only read the value, so that the layer below, or the default, applies.

        Raises:
            BadRecord: the value cannot be kept.
        """
        original = self.originals.get((key, id(value)))
        if self._sets and type(value) is set:  # elements are immutable, so copying the set is enough
            if original is not None and not (original[2] or value):
                return ABSENT
            copy = value.copy()
            if original is not None and original[2]:
                self.originals[key, id(copy)] = (copy, original[1], True)
            return copy
        data = self._values.draft(value)
        if original is not None and data == original[1]:
            return ABSENT
        before = self.detached.get(key)
        if before is not None and before[0] is value and before[1] == data:
            copy = self._values.decode(data)
        else:
            data, copy = self._values.kept(value, data)
        self.detached[key] = (copy, data)
        return copy
