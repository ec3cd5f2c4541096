"""Options of `replay` and `run` that select records, and set their order, their transformation and their pace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

import click

from ...topics.errors import Usage
from .common_options import CommandFunction, FormatOptions

if TYPE_CHECKING:
    from ..pipeline.pace import Pace
    from ..pipeline.pipeline import Pipeline

__all__ = ["PipelineOptions", "RecordOptions", "pace_of", "pipeline_of", "pipeline_options", "pseudonym_options"]


class PipelineOptions(TypedDict):
    """Values of the options that `pipeline_options` adds."""

    order: Literal["auto", "time", "source"]
    out_of_order: str
    start: str | None
    end: str | None
    only_key: tuple[str, ...]
    only_partition: tuple[int, ...]
    where: str | None
    limit: int | None
    transform: str | None
    pseudonyms: tuple[str, ...]
    pseudonym_key: str | None
    loop: str | None
    speed: str | None
    rate: str | None


class RecordOptions(PipelineOptions, FormatOptions):
    """Values of the options of `pipeline_options` and `format_options`."""


def pseudonym_options(command: CommandFunction) -> CommandFunction:
    """Add --pseudonym and --pseudonym-key; the parameters are `pseudonyms` and `pseudonym_key`."""
    key = click.option(
        "--pseudonym-key", metavar="NAME", help="Secret key of --pseudonym: env:NAME or file:PATH; never the key."
    )
    fields = click.option(
        "--pseudonym",
        "pseudonyms",
        multiple=True,
        metavar="FIELD",
        help="Replace this field by a keyed hash; $key for the key; repeatable. See docs/privacy.md.",
    )
    return fields(key(command))


def pipeline_options(command: CommandFunction) -> CommandFunction:
    """Add the options of a pipeline to a command; its parameters for them are `PipelineOptions`."""
    for option in (
        click.option("--rate", metavar="5000/s", help="Limit the rate; units /s, /min and /h."),
        click.option("--speed", metavar="60x", help="Follow event time at this multiple of real time."),
        click.option("--loop", metavar="N|forever", help="Replay the sources this many times."),
        click.option(
            "--transform", metavar="MODULE:FUNCTION", help="Function applied to each record; see docs/replay.md."
        ),
        pseudonym_options,
        click.option("--limit", type=click.IntRange(1), metavar="N", help="Stop after N records."),
        click.option(
            "--where", metavar="EXPR", help="Only records that match the expression: 'amount > 100 and not late'."
        ),
        click.option(
            "--only-partition",
            multiple=True,
            type=click.IntRange(0),
            help="Only records of this partition of the topic; repeatable.",
        ),
        click.option("--only-key", multiple=True, metavar="KEY", help="Only records with this key; repeatable."),
        click.option("--end", metavar="TIME", help="Only records before this time: ISO 8601 or Unix time."),
        click.option("--start", metavar="TIME", help="Only records from this time on."),
        click.option(
            "--out-of-order",
            metavar="WHAT",
            default="accept",
            show_default=True,
            help="Late records, whose time is before that of an earlier record of the file: accept, fail, sort, or "
            "sort:N with a buffer of N records per file (10000).",
        ),
        click.option(
            "--order",
            type=click.Choice(["auto", "time", "source"]),
            default="auto",
            show_default=True,
            help="Order of several files: merged by time, or one after another; auto is time if --time is given.",
        ),
    ):
        command = option(command)
    return command


def pipeline_of(options: PipelineOptions) -> Pipeline:
    """Return the pipeline that the options describe.

    Raises:
        Usage: an option is malformed, or `--start` is not before `--end`.
    """
    from ..pipeline.out_of_order import OutOfOrder
    from ..pipeline.pipeline import Pipeline
    from ..pipeline.pseudonymize import Pseudonyms
    from ..pipeline.selection import Selection

    start_ms, end_ms = _time_ms("--start", options["start"]), _time_ms("--end", options["end"])
    if start_ms is not None and end_ms is not None and start_ms >= end_ms:
        raise Usage("--start is not before --end")
    return Pipeline(
        order=options["order"],
        out_of_order=OutOfOrder.parse(options["out_of_order"]),
        selection=Selection(
            start_ms=start_ms,
            end_ms=end_ms,
            keys=options["only_key"],
            partitions=options["only_partition"],
            where=options["where"],
        ),
        transform=options["transform"],
        pseudonyms=Pseudonyms.parsed(options["pseudonyms"], options["pseudonym_key"]),
        rounds=_rounds(options["loop"]),
        limit=options["limit"],
    )


def pace_of(options: PipelineOptions) -> Pace:
    """Return the pace that the options describe.

    Raises:
        Usage: `--speed` or `--rate` is malformed, or both are given.
    """
    from ..pipeline.pace import Pace

    return Pace.parse(options["speed"], options["rate"])


def _time_ms(option: str, text: str | None) -> int | None:
    from ..sources.time_parser import parse_time_ms

    if text is None:
        return None
    try:
        return parse_time_ms(text)
    except ValueError as exc:
        raise Usage(f"{option}: {exc}", hint="for example 2013-01-31T10:00:00Z; times without a zone are UTC") from None


def _rounds(text: str | None) -> int:
    if text is None:
        return 1
    if text == "forever":
        return 0
    if not (text.isascii() and text.isdigit() and int(text)):
        raise Usage(f"--loop {text}: expected a number of rounds, or forever")
    return int(text)
