"""Replays of files into the Kafka of a world, by the player of `anabranch replay`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal, TypedDict, cast, get_args

from ...topics.cluster import Cluster
from ...topics.errors import Usage
from ...topics.spelling import did_you_mean
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


_OURS = {"where", "limit", "transform", "on_bad_line", "run_id", "pack"}


def play(
    cluster: Cluster, specs: Sequence[str], topic: str, options: ReplayOptions, *, value_type: object = None
) -> Report:
    """Replay files into a topic (blocking).

    Args:
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
    player = Player(
        cluster,
        history,
        topic,
        pipeline=pipeline,
        run_id=options.get("run_id"),
        on_bad_line=options.get("on_bad_line", "fail"),
        pack=pack,
    )
    return player.play()
