"""What a person sees of archives: progress, what was written, what a check found."""

from __future__ import annotations

from pathlib import Path

from ..archive import ArchiveReport, check_archive
from ..archive.archiver import ArchiveProgress
from .console import ProgressView, out, plain, write_json

__all__ = ["ArchiveView", "show_archive", "show_check"]


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
        self.move(self._name, progress.done_offsets, total, said, records=progress.records)


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
