"""Options about the way of records, which `replay` and `run` share."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import click

from ...topics.errors import Usage
from ..pipeline.lateness import Disorder
from ..pipeline.pace import Pace
from ..pipeline.pipeline import Pipeline
from ..pipeline.selection import Selection
from ..sources.timestamps import parse_time_ms

__all__ = ["course_of", "course_options", "pace_of"]

Command = Callable[..., Any]


def course_options(command: Command) -> Command:
    """In which order records go, which of them, what becomes of them, and how fast."""
    for option in (
        click.option("--rate", metavar="5000/s", help="No more records than that; also /min and /h."),
        click.option("--speed", metavar="60x", help="As fast as event time goes, times that much."),
        click.option("--loop", metavar="N|forever", help="All of it again and again, one round after another."),
        click.option("--transform", metavar="MODULE:FUNCTION", help="Each record goes through it; see docs/replay.md."),
        click.option("--limit", type=click.IntRange(1), metavar="N", help="No more than N records."),
        click.option(
            "--where", metavar="EXPR", help="Only records whose fields fulfil it: 'amount > 100 and not late'."
        ),
        click.option("--only-partition", multiple=True, type=click.IntRange(0), help="Of the topic; may be repeated."),
        click.option("--only-key", multiple=True, metavar="KEY", help="Only records with it; may be repeated."),
        click.option("--end", metavar="TIME", help="Only records before it; ISO 8601, or a number since 1970."),
        click.option("--start", metavar="TIME", help="Only records from it on."),
        click.option(
            "--disorder",
            metavar="WHAT",
            default="accept",
            show_default=True,
            help="Records that are earlier than one before them in their file: accept, fail, sort or sort:N (a buffer "
            "of N records a file; 10000).",
        ),
        click.option(
            "--order",
            type=click.Choice(["auto", "time", "source"]),
            default="auto",
            show_default=True,
            help="Of several files: merged by time, or one after another; auto merges where --time is given.",
        ),
    ):
        command = option(command)
    return command


def course_of(form: MutableMapping[str, Any]) -> Pipeline:
    """The course that the options of a command line describe; takes them out of `form`.

    Raises:
        Usage: one is not what it should be.
    """
    start_ms, end_ms = (_time(f"--{name}", form.pop(name)) for name in ("start", "end"))
    if start_ms is not None and end_ms is not None and start_ms >= end_ms:
        raise Usage("--start is not before --end")
    return Pipeline(
        order=form.pop("order"),
        disorder=Disorder.parse(form.pop("disorder")),
        selection=Selection(
            start_ms=start_ms,
            end_ms=end_ms,
            keys=form.pop("only_key"),
            partitions=form.pop("only_partition"),
            where=form.pop("where"),
        ),
        transform=form.pop("transform"),
        rounds=_rounds(form.pop("loop")),
        limit=form.pop("limit"),
    )


def pace_of(form: MutableMapping[str, Any]) -> Pace:
    """The pace that they describe, likewise.

    Raises:
        Usage: one is not what it should be.
    """
    return Pace.parse(form.pop("speed"), form.pop("rate"))


def _time(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_time_ms(text)
    except ValueError as exc:
        raise Usage(f"{option}: {exc}", hint="for example 2013-01-31T10:00:00Z; without a zone it is UTC") from None


def _rounds(text: str | None) -> int:
    if text is None:
        return 1
    if text == "forever":
        return 0
    if not (text.isascii() and text.isdigit() and int(text)):
        raise Usage(f"--loop {text}: expected how often, or forever")
    return int(text)
