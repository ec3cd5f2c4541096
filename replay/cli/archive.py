"""`anabranch archive`: a topic into a folder, and whether the folder is still what was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...topics.errors import Usage
from .. import signals
from .common_options import LEVELS, choose_cluster, cluster_options
from .console import ProgressView, out, plain, write_json
from .logs import log_to_stderr

if TYPE_CHECKING:
    from ..archive import ArchiveReport
    from ..archive.archiver import ArchiveProgress

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
    with choose_cluster(bootstrap_server, options) as place, ArchiveView(topic) as view:
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


class ArchiveView(ProgressView):
    """Progress of an archiver."""

    def __init__(self, topic: str) -> None:
        super().__init__()
        self._name = f"archive {topic}"

    def archiving(self, progress: ArchiveProgress) -> None:
        """After each batch."""
        rate = progress.records / progress.seconds if progress.seconds else 0.0
        said = f"{progress.records:,} records  {rate:,.0f}/s"
        total = progress.done_offsets + progress.left_offsets
        self.update(self._name, progress.done_offsets, total, said, records=progress.records)


def show_archive(report: ArchiveReport, folder: Path, *, as_json: bool) -> None:
    """What an archiver did."""
    manifest = report.manifest
    if as_json:
        facts = {
            "topic": manifest.topic,
            "folder": str(folder),
            "records": report.records,
            "files": report.files,
            "total_records": manifest.records,
            "total_files": len(manifest.files),
            "total_bytes": manifest.size_bytes,
            "lost": report.lost,
            "seconds": round(report.seconds, 3),
        }
        write_json(facts)
        return
    rate = f" ({report.records / report.seconds:,.0f}/s)" if report.records >= 10_000 and report.seconds else ""
    out.print(
        f"[bold]{report.records:,}[/bold] records of {plain(manifest.topic)} → [bold]{plain(folder)}[/bold] "
        f"in {report.seconds:.1f} s{rate}{', resumed' if report.resumed else ''}",
        markup=True,
    )
    out.print(f"  it holds {manifest.records:,} records in {len(manifest.files):,} files, {_size(manifest.size_bytes)}")
    if report.removed:
        out.print(f"  {len(report.removed)} unfinished files of an earlier start were removed and written again")
    for lost in report.lost:
        out.print(
            f"  {manifest.topic}[{lost.partition}]: offsets {lost.begin:,} to {lost.end - 1:,} "
            "were deleted before they were read",
            style="yellow",
        )


def show_check(folder: Path, *, accept_lost: bool, as_json: bool) -> bool:
    """Check an archive and say what was found; whether that is well."""
    from ..archive import check_archive

    manifest, findings = check_archive(folder)
    wrong = [finding for finding in findings if not (accept_lost and finding.kind == "lost")]
    if as_json:
        write_json({"topic": manifest.topic, "records": manifest.records, "well": not wrong, "findings": findings})
        return not wrong
    for finding in findings:
        out.print(f"{finding.kind}: {finding.where}: {finding.text}", style="red", markup=False)
    what = f"{manifest.records:,} records of {manifest.topic} in {len(manifest.files):,} files"
    out.print(f"{what}, {_size(manifest.size_bytes)}: " + (f"{len(wrong)} wrong" if wrong else "as written"))
    return not wrong


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
