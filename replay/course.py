"""The way of records from their sources to the topic: in which order they go."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from ..topics.errors import Usage
from .disorder import Disorder, Lateness
from .lines import BATCH_LINES
from .merge import Merge
from .source import Position, Replayable, Source

__all__ = ["Course", "Order"]

Order = Literal["auto", "time", "source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is done with records on their way.

    Attributes:
        order: `time` merges the parts of a history by event time; `source` reads one after another; `auto` is `time`
            where records carry times.
        disorder: what is done with records that are late in their part; needs `time`.
    """

    order: Order = "auto"
    disorder: Disorder = field(default_factory=Disorder)

    def merges(self, history: Replayable) -> bool:
        """Whether a history's parts are merged by time."""
        return self.order != "source" and history.timed and bool(history.parts)

    def checked(self, history: Replayable) -> None:
        """Refuse what cannot be done with a history.

        Raises:
            Usage: names the option.
        """
        wants = "--order time" if self.order == "time" else f"--disorder {self.disorder.policy}"
        if (self.order == "time" or self.disorder.policy != "accept") and not self.merges(history):
            if not history.resumable:
                raise Usage(f"{wants} is for what can be read again, and a socket cannot")
            raise Usage(f"{wants} needs records with times", hint="--time FIELD names the field, and no --order source")

    def identity(self, history: Replayable) -> dict[str, Any]:
        """What decides over which records are sent in which order, as plain JSON; empty for the usual."""
        asked: dict[str, Any] = {}
        if self.merges(history):
            asked["order"] = "time"
            # How large the buffer is does not change the order.
            asked["sorted"] = self.disorder.policy == "sort"
        return asked

    def run_id(self, history: Replayable, topic: str) -> str:
        """The name of the run: the same for the same history, course and topic."""
        asked = self.identity(history)
        name = history.identity(topic)
        if not asked:
            return name
        return hashlib.sha256(name.encode() + msgspec.json.encode(asked, order="deterministic")).hexdigest()[:16]

    def open(
        self,
        history: Replayable,
        position: Position | None = None,
        *,
        batch_lines: int = BATCH_LINES,
        lateness: Lateness | None = None,
    ) -> Source:
        """Begin to read, at a position that `snapshot()` gave or at the beginning; see `History.open`."""
        if not self.merges(history):
            return history.open(position, batch_lines=batch_lines)
        return Merge(history.parts, position, disorder=self.disorder, lateness=lateness, batch_lines=batch_lines)
