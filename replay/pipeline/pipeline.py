"""The pipeline of a replay, from its sources to the topic: order, selection, transform, repetition and limit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from ...topics import clock as process_clock
from ...topics.clock import Clock
from ...topics.errors import Usage
from ...topics.partitioners import HashPartitioner, Partitioner
from ..module_loader import source_of
from ..replay_report import Counters
from ..sources.file_history import is_socket
from ..sources.formats.line_buffer import BATCH_LINES
from ..sources.source import Replayable, Source, SourcePosition
from .cursor import Open
from .merge import MergedSource
from .out_of_order import OutOfOrder
from .pace import Pace, PacedSource
from .pseudonymize import Pseudonyms
from .repeat import LoopedSource
from .selection import LimitedSource, Selection, SteppedSource
from .transform import load_transform, transforming

__all__ = ["Order", "Pipeline"]

Order = Literal["auto", "time", "source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """The steps between the sources of a run and its topic. Changing the pipeline makes it a different run.

    Attributes:
        order: `time` merges the parts of a history by event time; `source` reads one after another; `auto` is `time`
            if the records have times.
        out_of_order: the handling of records that are out of order in their part; requires `time`.
        selection: which records are replayed.
        transform: a function that is applied to each record, as `module:function`; see `transform.py`.
        pseudonyms: fields that are replaced by pseudonyms, before the transform sees them.
        rounds: how often the history is replayed; 0 repeats it without end.
        limit: how many records are replayed at most, in all rounds together.
    """

    order: Order = "auto"
    out_of_order: OutOfOrder = field(default_factory=OutOfOrder)
    selection: Selection = field(default_factory=Selection)
    transform: str | None = None
    pseudonyms: Pseudonyms | None = None
    rounds: int = 1
    limit: int | None = None

    def merges(self, history: Replayable) -> bool:
        """Return whether the parts of a history are merged by time."""
        return self.order != "source" and history.timed and bool(history.parts)

    def keeps_columns(self, history: Replayable) -> bool:
        """Return whether no step needs single records, so that rows read as columns can stay columns."""
        sorts = self.merges(history) and (len(history.parts) > 1 or self.out_of_order.policy != "accept")
        return not (sorts or self._has_steps)

    @property
    def _has_steps(self) -> bool:
        """True if single records are selected or changed."""
        return bool(self.selection.identity() or self.transform or self.pseudonyms)

    def checked(self, history: Replayable, pace: Pace | None = None) -> None:
        """Refuse options that do not fit a history.

        Raises:
            Usage: names the option.
        """
        wants = "--order time" if self.order == "time" else f"--out-of-order {self.out_of_order.policy}"
        if (self.order == "time" or self.out_of_order.policy != "accept") and not self.merges(history):
            if is_socket(history):
                raise Usage(f"{wants} needs a source with an end, and a socket has none")
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
            raise Usage("--loop needs a source with an end, and a socket has none")

    def identity(self, history: Replayable) -> dict[str, object]:
        """Return what decides which records are sent in which order, as plain JSON; empty for the defaults."""
        options: dict[str, object] = {}
        if self.merges(history):
            options["order"] = "time"
            # The size of the buffer does not change the order.
            options["sorted"] = self.out_of_order.policy == "sort"
        options |= self.selection.identity()
        if self.pseudonyms is not None:
            options |= self.pseudonyms.identity()
        for name, value, default in (
            ("transform", self.transform, None),
            ("rounds", self.rounds, 1),
            ("limit", self.limit, None),
        ):
            if value != default:
                options[name] = value
        return options

    def fingerprint(self) -> str:
        """Return a hash of the transform's source text, which tells a changed one; empty without a transform."""
        return "" if self.transform is None else hashlib.sha256(source_of(self.transform)).hexdigest()

    def run_id(self, history: Replayable, topic: str, *, packed: bool = False) -> str:
        """Return the run id: the same for the same history, pipeline and topic."""
        options = self.identity(history)
        name = history.identity(topic)
        if options:
            name = hashlib.sha256(name.encode() + msgspec.json.encode(options, order="deterministic")).hexdigest()[:16]
        # Counts and positions of a packed replay differ from those of plain records.
        return f"{name}-packed" if packed else name

    def open(
        self,
        history: Replayable,
        position: SourcePosition | None = None,
        *,
        partitioner: Partitioner | None = None,
        pace: Pace | None = None,
        clock: Clock | None = None,
        counters: Counters | None = None,
        batch_lines: int = BATCH_LINES,
    ) -> Source:
        """Open a history at a position that a source of this pipeline returned, or at its beginning.

        Args:
            partitioner: that of the topic; needed to select by partition.
            pace: may differ from that of earlier starts.
            counters: counts what the pipeline filters out and what is out of order.

        Raises:
            Usage: an expression is not valid, or the transform does not exist; see also `FileHistory.open`.
        """
        paced = bool(pace) or (position is not None and "cut" in position)
        if paced or self.limit is not None or self._has_steps:
            history = history.unpacked()
        loops: list[LoopedSource] = []
        open_once = self._opener(history, partitioner or HashPartitioner(1), counters or Counters(), batch_lines)

        def open_all(position: SourcePosition | None) -> Source:
            if self.rounds == 1:
                return open_once(position)
            loops.append(LoopedSource(open_once, self.rounds, position))
            return loops[-1]

        def open_at(position: SourcePosition | None) -> Source:
            return open_all(position) if self.limit is None else LimitedSource(open_all, self.limit, position)

        # The position of a run that was started with a pace is that of a cursor, even if it is resumed without one.
        if paced:
            return PacedSource(
                open_at,
                pace or Pace(),
                clock or process_clock.current(),
                position if position is None or "cut" in position else {"cut": {"at": position}},
                round_of=lambda: loops[-1].round if loops else 0,
            )
        return open_at(position)

    def _opener(self, history: Replayable, partitioner: Partitioner, counters: Counters, batch_lines: int) -> Open:
        steps = self.selection.steps(partitioner)
        if self.pseudonyms is not None:
            steps.append(self.pseudonyms.step())
        if self.transform is not None:
            steps.append(transforming(self.transform, load_transform(self.transform)))
        # In order of time nothing follows the end of the selection. Accepted records that are out of order might.
        in_order = self.merges(history) and self.out_of_order.policy != "accept"
        end_ms = self.selection.end_ms if in_order else None

        def open_at(position: SourcePosition | None) -> Source:
            if self.merges(history):
                source: Source = MergedSource(
                    history.parts, position, out_of_order=self.out_of_order, counters=counters, batch_lines=batch_lines
                )
            else:
                source = history.open(position, batch_lines=batch_lines)
            return SteppedSource(source, steps, counters, end_ms=end_ms) if steps else source

        return open_at
