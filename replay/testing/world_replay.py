"""Replays of files into the Kafka of a world, by the player of `anabranch replay`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Literal, TypedDict, cast, get_args

from ...topics import clock
from ...topics.clock import Clock
from ...topics.cluster import Cluster
from ...topics.errors import Usage
from ...topics.spelling import did_you_mean
from ..pipeline.pace import Pace
from ..pipeline.packing import Compression
from ..pipeline.pipeline import Pipeline
from ..pipeline.selection import Selection
from ..player import Player
from ..replay_report import Report
from ..runs.inputs import declared_types
from ..source_resolver import resolve_source
from ..sources.file_history import FileHistory
from ..sources.format import Format

__all__ = ["ReplayOptions", "play"]


class ReplayOptions(TypedDict, total=False):
    """Options of `anabranch replay` and `anabranch run`, under their names.

    Attributes:
        key, time: field or expression of a record's key and of its time.
        where: only records that match the expression.
        limit: only so many records.
        transform: `module:function` that is applied to each record.
        on_bad_line: what to do with a line that is not a record; `fail` by default.
        run_id: the name of the replay; the same replay under another name sends everything again.
        pack: send packed batches with this compression.
        complete: only of a run: windows stay open to the end of its inputs, so that no record is late.
        speed, rate: the pace, such as `60x` of event time and `100/s`; workers process the records meanwhile.
        kind, …: the format of the files, see `Format`.
    """

    key: str | None
    time: str | None
    where: str | None
    limit: int | None
    transform: str | None
    on_bad_line: Literal["fail", "skip", "dead-letter"]
    run_id: str | None
    pack: Compression | None
    complete: bool
    speed: str | None
    rate: str | None
    kind: str
    key_before: str | None
    columns: tuple[str, ...] | None
    types: tuple[tuple[str, str], ...]
    nulls: tuple[str, ...]
    delimiter: str | None
    quote: str
    headers: tuple[tuple[str, str], ...]
    partition: str | None
    time_format: str
    time_zone: str
    encoding: str
    as_text: bool


_OURS = {"where", "limit", "transform", "on_bad_line", "run_id", "pack", "speed", "rate"}


class _WorkingClock(Clock):
    """A clock that lets the workers of a world run while a paced replay waits."""

    def __init__(self, clock: Clock, work: Callable[[float], None]) -> None:
        self._clock, self._work = clock, work

    def now_s(self) -> float:
        """Return the seconds of the world's clock."""
        return self._clock.now_s()

    def now_ms(self) -> int:
        """Return the world's time in milliseconds since 1970."""
        return self._clock.now_ms()

    def sleep(self, seconds: float) -> None:
        """Let the workers run for so many seconds."""
        self._work(seconds)

    def wait(self, stop: threading.Event, seconds: float) -> None:
        """Let the workers run for so many seconds."""
        self._work(seconds)


def play(
    cluster: Cluster,
    specs: Sequence[str],
    topic: str,
    options: ReplayOptions,
    *,
    work: Callable[[float], None],
    ends_input: bool = False,
    value_type: object = None,
) -> Report:
    """Replay files into a topic (blocking).

    Args:
        work: lets the workers run for so many seconds, while a replay at a pace waits.
        ends_input: see `Player`.
        value_type: the type of the topic's values, which columns of CSV files then have; None to infer them.

    Raises:
        Usage: an option does not exist or does not fit the files.
        Stop: a file cannot be read.
    """
    known = {field.name for field in fields(Format)}
    for name in options.keys() - known - _OURS:
        raise Usage(f"replay: no option {name!r}", hint=did_you_mean(name, known | _OURS))
    pack = options.get("pack")
    if pack and pack not in get_args(Compression):
        raise Usage(f"replay: pack={pack!r} is no compression", hint='pack="lz4" or pack="zstd"')
    given = cast("dict[str, Any]", options)
    form = Format(**{name: value for name, value in given.items() if name in known})
    history = resolve_source(specs, form, cluster=cluster)
    if value_type is not None and isinstance(history, FileHistory):
        history = history.with_declared_types(declared_types(value_type))
    pipeline = Pipeline(
        selection=Selection(where=options.get("where")),
        transform=options.get("transform"),
        limit=options.get("limit"),
    )
    pace = Pace.parse(options.get("speed"), options.get("rate"))
    player = Player(
        cluster,
        history,
        topic,
        pipeline=pipeline,
        pace=pace,
        clock=_WorkingClock(clock.current(), work) if pace else None,
        run_id=options.get("run_id"),
        on_bad_line=options.get("on_bad_line", "fail"),
        pack=pack,
        ends_input=ends_input,
    )
    return player.play()
