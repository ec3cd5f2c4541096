"""The log of a world: what happened, when, in which worker. The same seed gives the same text."""

from __future__ import annotations

import hashlib

from ...topics import clock

__all__ = ["WorldLog"]


class WorldLog:
    """Lines of text: seconds, worker, event, details."""

    def __init__(self) -> None:
        self._lines: list[tuple[float, int | None, str, str]] = []

    def note(self, worker: int | None, event: str, details: str = "") -> None:
        """Add an event that happens now.

        Args:
            worker: number of the worker; None for an event of the world.
        """
        self._lines.append((clock.now_s(), worker, event, details))

    def __str__(self) -> str:
        return "\n".join(
            f"{at_s:10.6f} {'world' if worker is None else f'w{worker}'} {event}{' ' if details else ''}{details}"
            for at_s, worker, event, details in self._lines
        )

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def digest(self) -> str:
        """A short hash of the text."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:16]
