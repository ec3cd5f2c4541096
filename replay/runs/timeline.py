"""When a bounded run had done what: where its time went."""

from __future__ import annotations

from ...topics import clock

__all__ = ["Timeline"]


class Timeline:
    """Seconds from its making to the first time that each thing was noted, in order."""

    def __init__(self) -> None:
        self._began_s = clock.now_s()
        self.seconds: dict[str, float] = {}

    def note(self, what: str) -> None:
        """It is done now; the first time counts."""
        self.seconds.setdefault(what, self.now_s)

    @property
    def now_s(self) -> float:
        """Seconds since the beginning."""
        return clock.now_s() - self._began_s

    def __str__(self) -> str:
        return ", ".join(f"{what} {seconds:.1f} s" for what, seconds in self.seconds.items())
