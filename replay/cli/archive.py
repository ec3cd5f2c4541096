"""`anabranch archive`: archive a topic in a folder, and check an archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...topics.errors import Usage
from .. import signals
from .common_options import LEVELS, choose_cluster, cluster_options
from .console import ProgressView, counted, out, plain, write_json
from .logs import log_to_stderr
from .pipeline_options import pseudonym_options

if TYPE_CHECKING:
    from ..archive import ArchiveReport, Manifest
    from ..archive.archiver import ArchiveProgress

__all__ = ["archive"]

_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30, "b": 1}
_TIMES = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@click.command()
@click.argument("topic")
@click.argument("checked", required=False, metavar="[FOLDER]", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "folder",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Folder to write to; created if it does not exist.",
)
@click.option("--follow", is_flag=True, help="Keep archiving new records until SIGTERM or Ctrl-C.")
@click.option(
    "--format", "encoding", type=click.Choice(["parquet", "jsonl"]), help="Format of a new archive.  [default: parquet]"
)
@click.option("--roll-size", default="128MB", show_default=True, help="Start a new file at about this size.")
@click.option("--roll-time", help="Start a new file at this age.  [default: 5m with --follow]")
@pseudonym_options
@click.option("--accept-lost", is_flag=True, help="check: tolerate gaps that Kafka's retention left.")
@click.option("-J", "--json", "as_json", is_flag=True, help="Print JSON.")
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
    pseudonyms: tuple[str, ...],
    pseudonym_key: str | None,
    accept_lost: bool,
    as_json: bool,
    loglevel: str,
    bootstrap_server: str | None,
    options: tuple[str, ...],
) -> None:
    """Archive a topic's committed records in a folder, each once, with key, value, headers, time, partition and offset.

    Stops at the topic's current end, or with --follow keeps archiving. After a crash, the same command resumes where
    the archive ends; only one process can write to a folder at a time. `anabranch replay FOLDER --to TOPIC` restores
    the records.

    With --pseudonym the archive holds keyed hashes instead of the values of these fields, also in keys and headers. A
    record that would still tell the person ends the command with an error that names it; see docs/privacy.md.

    `archive check FOLDER` reads the whole archive and exits with 1 if a file has changed or is missing, or if there is
    a gap in the offsets.

    \b
    Examples:
      anabranch archive orders --to archive/orders
      anabranch archive orders --to archive/orders --follow --roll-size 256MB --roll-time 10m
      anabranch archive orders --to archive/orders --format jsonl     # zstdcat reads it
      anabranch archive orders --to archive/orders --pseudonym email --pseudonym-key env:PSEUDONYM_KEY
      anabranch archive check archive/orders
    """
    from ..archive import Archiver, Rolling
    from ..pipeline.pseudonymize import Pseudonyms

    log_to_stderr(loglevel)
    if folder is None:
        if topic != "check" or checked is None:
            raise Usage("no folder given", hint="--to FOLDER; or: anabranch archive check FOLDER")
        if not show_check(checked, accept_lost=accept_lost, as_json=as_json):
            raise SystemExit(1)
        return
    if checked is not None:
        raise Usage(f"{checked}: only one topic can be archived at a time", hint="anabranch archive TOPIC --to FOLDER")
    age = roll_time or ("5m" if follow else None)
    rolling = Rolling(int(_measure(roll_size, _UNITS, "128MB")), None if age is None else _measure(age, _TIMES, "5m"))
    replaced = Pseudonyms.parsed(pseudonyms, pseudonym_key)
    if replaced is not None:
        replaced.identity()  # reads the key
    with choose_cluster(bootstrap_server, options) as choice, ArchiveView(topic) as view:
        archiver = Archiver(
            choice.cluster,
            topic,
            folder,
            encoding=encoding,  # pyright: ignore[reportArgumentType] (click has validated it)
            rolling=rolling,
            follow=follow,
            pseudonyms=replaced,
        )
        signals.call_on_signal(archiver.stop)
        report = archiver.archive(view.archiving)
    show_archive(report, folder, as_json=as_json)
    if signals.received() and not follow:
        raise SystemExit(signals.exit_code())


def _measure(text: str, units: dict[str, float] | dict[str, int], example: str) -> float:
    """Parse a number and its unit, and return it in the base unit of `units`.

    Raises:
        Usage: the text is malformed, or the number is not positive.
    """
    number = text.strip().lower().rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text.strip().lower()[len(number) :].strip()
    try:
        measured = float(number) * units[unit]
    except (ValueError, KeyError):
        measured = -1.0
    if not 0 < measured < float("inf"):
        raise Usage(f"{text}: expected a number and a unit ({' '.join(units)})", hint=f"for example {example}")
    return measured


class ArchiveView(ProgressView):
    """Progress of an archiver."""

    def __init__(self, topic: str) -> None:
        super().__init__()
        self._name = f"archive {topic}"

    def archiving(self, progress: ArchiveProgress) -> None:
        """Show the progress; called after each batch."""
        rate = progress.records / progress.seconds if progress.seconds else 0.0
        status = f"{progress.records:,} records  {rate:,.0f}/s"
        total = progress.done_offsets + progress.left_offsets
        self.update(
            self._name, progress.done_offsets, total, status, unit="offsets", records=progress.records, rate=round(rate)
        )


def show_archive(report: ArchiveReport, folder: Path, *, as_json: bool) -> None:
    """Print the report of an archiver."""
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
        f"archived {counted(report.records, 'record')} of [bold]{plain(manifest.topic)}[/bold] in "
        f"[bold]{plain(folder)}[/bold] in {report.seconds:.1f} s{rate}{', resumed' if report.resumed else ''}",
        markup=True,
    )
    out.print(f"  the archive holds {_content(manifest)}")
    if report.removed:
        out.print(
            f"  removed {counted(len(report.removed), 'unfinished file')} of an earlier start and wrote them again"
        )
    for lost in report.lost:
        out.print(
            f"  {manifest.topic}[{lost.partition}]: offsets {lost.begin:,} to {lost.end - 1:,} "
            "were deleted from Kafka before they could be archived",
            style="yellow",
        )


def show_check(folder: Path, *, accept_lost: bool, as_json: bool) -> bool:
    """Check an archive, print what was found, and return whether the archive is intact."""
    from ..archive import check_archive

    manifest, findings = check_archive(folder)
    wrong = [finding for finding in findings if not (accept_lost and finding.kind == "lost")]
    if as_json:
        write_json({"topic": manifest.topic, "records": manifest.records, "intact": not wrong, "findings": findings})
        return not wrong
    for finding in findings:
        out.print(f"{finding.kind}: {finding.position}: {finding.text}", style="red", markup=False)
    verdict = counted(len(wrong), "problem") if wrong else "intact"
    out.print(f"{plain(manifest.topic)}: {_content(manifest)}: {verdict}", markup=True)
    return not wrong


def _content(manifest: Manifest) -> str:
    size_mb = manifest.size_bytes / 1e6
    return f"{counted(manifest.records, 'record')} in {counted(len(manifest.files), 'file')}, {size_mb:,.1f} MB"
