"""Replays of files into the Kafka of a world, by the player of `anabranch replay`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal

from ...agents.declarations import nearest
from ...topics.cluster import Cluster
from ...topics.errors import Usage
from ..pipeline.pipeline import Pipeline
from ..pipeline.selection import Selection
from ..player import Player
from ..replay_report import Report
from ..source_resolver import resolve_source
from ..sources.format import Format

__all__ = ["play"]


def play(
    cluster: Cluster,
    specs: Sequence[str],
    topic: str,
    format: dict[str, Any],
    *,
    where: str | None,
    limit: int | None,
    transform: str | None,
    on_bad_line: Literal["fail", "skip", "dead-letter"],
    run_id: str | None,
    pack: Literal["lz4", "zstd"] | None,
) -> Report:
    """Replay files into a topic (blocking); see `World.replay`.

    Raises:
        Usage: an option does not exist or does not fit the files.
        Stop: a file cannot be read.
    """
    known = {field.name for field in fields(Format)}
    for name in format:
        if name not in known:
            raise Usage(f"replay: no option {name!r}", hint=nearest(name, known))
    history = resolve_source(specs, Format(**format), cluster=cluster)
    pipeline = Pipeline(selection=Selection(where=where), transform=transform, limit=limit)
    player = Player(cluster, history, topic, pipeline=pipeline, run_id=run_id, on_bad_line=on_bad_line, pack=pack)
    return player.play()
