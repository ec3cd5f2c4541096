"""`anabranch archive`: a topic into a folder, and whether the folder is still what was written."""

from __future__ import annotations

from pathlib import Path

import click

from ...topics.errors import Usage
from .. import signals
from .common_options import LEVELS, cluster_options, log_to_stderr, on_ground

__all__ = ["archive"]

_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30, "b": 1}
_TIMES = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@click.command()
@click.argument("topic")
@click.argument("checked", required=False, metavar="[FOLDER]", type=click.Path(path_type=Path))
@click.option("--to", "folder", metavar="FOLDER", type=click.Path(path_type=Path), help="Made where it is missing.")
@click.option("--follow", is_flag=True, help="Go on at the end, until SIGTERM or Ctrl-C.")
@click.option("--format", "encoding", type=click.Choice(["parquet", "jsonl"]), help="Of a new archive.  [parquet]")
@click.option("--roll-size", default="128MB", show_default=True, help="Close a file at about this size.")
@click.option("--roll-time", help="Close a file at this age; 5m with --follow.")
@click.option("--accept-lost", is_flag=True, help="check: what Kafka had deleted before it was read is no error.")
@click.option("-J", "--json", "as_json", is_flag=True, help="Say it as JSON.")
@click.option("-l", "--loglevel", type=LEVELS, default="error", show_default=True)
@cluster_options
def archive(
    topic: str,
    checked: Path | None,
    folder: Path | None,
    follow: bool,
    encoding: str | None,
    roll_size: str,
    roll_time: str | None,
    accept_lost: bool,
    as_json: bool,
    loglevel: str,
    bootstrap_server: str | None,
    options: tuple[str, ...],
) -> None:
    """Write a topic's committed records into a folder, each once, with key, value, headers, partition, offset and time.

    To the topic's end as it stands, or for ever with --follow. Killed at any moment and started again, it goes on where
    its manifest says; one process writes to a folder at a time. `anabranch replay FOLDER --to TOPIC` brings everything
    back as it was. `archive check FOLDER` reads every byte, and exits with 1 where a file has changed or is missing, or
    where there is a gap.

    \b
    Examples:
      anabranch archive orders --to archive/orders
      anabranch archive orders --to archive/orders --follow --roll-size 256MB --roll-time 10m
      anabranch archive orders --to archive/orders --format jsonl     # zstdcat reads it
      anabranch archive check archive/orders
    """
    from ..archive import Archiver, Rolling
    from .archive_output import ArchiveView, show_archive, show_check

    log_to_stderr(loglevel)
    if folder is None:
        if topic != "check" or checked is None:
            raise Usage("no folder to write to", hint="--to FOLDER; or: anabranch archive check FOLDER")
        if not show_check(checked, accept_lost=accept_lost, as_json=as_json):
            raise SystemExit(1)
        return
    if checked is not None:
        raise Usage(f"{checked}: one topic is archived at a time", hint="anabranch archive TOPIC --to FOLDER")
    age = roll_time or ("5m" if follow else None)
    rolling = Rolling(int(_measure(roll_size, _UNITS, "128MB")), None if age is None else _measure(age, _TIMES, "5m"))
    with on_ground(bootstrap_server, options) as place, ArchiveView(topic) as view:
        archiver = Archiver(
            place.cluster,
            topic,
            folder,
            encoding=encoding,  # pyright: ignore[reportArgumentType] (click has checked it)
            rolling=rolling,
            follow=follow,
        )
        signals.stopping(archiver.stop)
        report = archiver.archive(view.archiving)
    show_archive(report, folder, as_json=as_json)
    if signals.told() and not follow:
        raise SystemExit(signals.exit_code())


def _measure(text: str, units: dict[str, float] | dict[str, int], example: str) -> float:
    """A number with its unit.

    Raises:
        Usage: it is none.
    """
    number = text.strip().lower().rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text.strip().lower()[len(number) :].strip()
    try:
        measured = float(number) * units[unit]
    except (ValueError, KeyError):
        measured = -1.0
    if not 0 < measured < float("inf"):
        raise Usage(f"{text}: a number and one of {' '.join(units)} is expected", hint=f"for example {example}")
    return measured
