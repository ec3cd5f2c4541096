"""The way of records from their sources to the topic: in which order, which of them, turned into what, how often."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from ...topics import clock as process_clock
from ...topics.clock import Clock
from ...topics.errors import Usage
from ...topics.partitioners import HashPartitioner, Partitioner
from ..module_loader import source_of
from ..sources.file_history import is_socket
from ..sources.formats.lines import BATCH_LINES
from ..sources.source import Replayable, Source, SourcePosition
from .counters import Counters
from .cursor import Open
from .lateness import Disorder
from .merge import Merge
from .pace import Pace, Paced
from .repeat import Loop
from .selection import Limited, Selection, Through
from .transform import load_transform, transforming

__all__ = ["Order", "Pipeline"]

Order = Literal["auto", "time", "source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What is done with records on their way. All of it is part of what a run is: with another one it is another run.

    Attributes:
        order: `time` merges the parts of a history by event time; `source` reads one after another; `auto` is `time`
            where records carry times.
        disorder: what is done with records that are late in their part; needs `time`.
        selection: which records go.
        transform: a function that each goes through, see `transform`.
        rounds: how often all of it goes; 0 for ever.
        limit: how many records go at most, of all rounds together.
    """

    order: Order = "auto"
    disorder: Disorder = field(default_factory=Disorder)
    selection: Selection = field(default_factory=Selection)
    transform: str | None = None
    rounds: int = 1
    limit: int | None = None

    def merges(self, history: Replayable) -> bool:
        """Whether a history's parts are merged by time."""
        return self.order != "source" and history.timed and bool(history.parts)

    def columns_stay(self, history: Replayable) -> bool:
        """Whether nothing on the way looks at single records, so that what is read as columns may stay that."""
        sorts = self.merges(history) and (len(history.parts) > 1 or self.disorder.policy != "accept")
        return not (sorts or self.selection.identity() or self.transform)

    def checked(self, history: Replayable, pace: Pace | None = None) -> None:
        """Refuse what cannot be done with a history.

        Raises:
            Usage: names the option.
        """
        wants = "--order time" if self.order == "time" else f"--disorder {self.disorder.policy}"
        if (self.order == "time" or self.disorder.policy != "accept") and not self.merges(history):
            if is_socket(history):
                raise Usage(f"{wants} is for what can be read to its end, and a socket cannot")
            raise Usage(f"{wants} needs records with times", hint="--time FIELD names the field, and no --order source")
        by_time = {
            "--start": self.selection.start_ms is not None,
            "--end": self.selection.end_ms is not None,
            "--speed": pace is not None and pace.speed is not None,
        }
        for option, given in by_time.items():
            if given and not history.timed:
                raise Usage(f"{option} needs records with times", hint="--time FIELD names the field that holds them")
        if self.rounds != 1 and is_socket(history):
            raise Usage("--loop is for what can be read to its end, and a socket cannot")

    def identity(self, history: Replayable) -> dict[str, Any]:
        """What decides over which records are sent in which order, as plain JSON; empty for the usual."""
        asked: dict[str, Any] = {}
        if self.merges(history):
            asked["order"] = "time"
            # How large the buffer is does not change the order.
            asked["sorted"] = self.disorder.policy == "sort"
        asked |= self.selection.identity()
        for name, value, usual in (
            ("transform", self.transform, None),
            ("rounds", self.rounds, 1),
            ("limit", self.limit, None),
        ):
            if value != usual:
                asked[name] = value
        return asked

    def fingerprint(self) -> str:
        """What tells a transform from a changed one; empty without one."""
        return "" if self.transform is None else hashlib.sha256(source_of(self.transform)).hexdigest()

    def run_id(self, history: Replayable, topic: str, *, packed: bool = False) -> str:
        """The name of the run: the same for the same history, course and topic."""
        asked = self.identity(history)
        name = history.identity(topic)
        if asked:
            name = hashlib.sha256(name.encode() + msgspec.json.encode(asked, order="deterministic")).hexdigest()[:16]
        # Counts and positions are not those of plain records.
        return f"{name}-packed" if packed else name

    def open(
        self,
        history: Replayable,
        position: SourcePosition | None = None,
        *,
        partitioner: Partitioner | None = None,
        pace: Pace | None = None,
        clock: Clock | None = None,
        notes: Counters | None = None,
        batch_lines: int = BATCH_LINES,
    ) -> Source:
        """Begin to read, at a position that `snapshot()` gave or at the beginning; see `FileHistory.open`.

        Args:
            partitioner: of the topic, to select partitions by.
            pace: may be another one than before.

        Raises:
            Usage: an expression is none, there is no such function; see also `FileHistory.open`.
        """
        paced = bool(pace) or (position is not None and "cut" in position)
        if paced or self.limit is not None or self.transform or self.selection.identity():
            history = history.unpacked()
        loops: list[Loop] = []
        open_once = self._opening(history, partitioner or HashPartitioner(1), notes or Counters(), batch_lines)

        def open_all(position: SourcePosition | None) -> Source:
            if self.rounds == 1:
                return open_once(position)
            loops.append(Loop(open_once, self.rounds, position))
            return loops[-1]

        def open_at(position: SourcePosition | None) -> Source:
            return open_all(position) if self.limit is None else Limited(open_all, self.limit, position)

        # A run that was begun at a pace stands at a cut, and can go on without one.
        if paced:
            return Paced(
                open_at,
                pace or Pace(),
                clock or process_clock.current(),
                position if position is None or "cut" in position else {"cut": {"at": position}},
                round_of=lambda: loops[-1].round if loops else 0,
            )
        return open_at(position)

    def _opening(self, history: Replayable, partitioner: Partitioner, notes: Counters, batch_lines: int) -> Open:
        steps = self.selection.steps(partitioner)
        if self.transform is not None:
            steps.append(transforming(self.transform, load_transform(self.transform)))
        # In order of time, nothing follows the end. Late records that are accepted might.
        in_order = self.merges(history) and self.disorder.policy != "accept"
        end_ms = self.selection.end_ms if in_order else None

        def open_at(position: SourcePosition | None) -> Source:
            if self.merges(history):
                source: Source = Merge(
                    history.parts, position, disorder=self.disorder, notes=notes, batch_lines=batch_lines
                )
            else:
                source = history.open(position, batch_lines=batch_lines)
            return Through(source, steps, notes, end_ms=end_ms) if steps else source

        return open_at
