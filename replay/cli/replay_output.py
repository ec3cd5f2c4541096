"""What a person sees of a replay: progress, what was sent, and what would be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..pipeline.column_profile import Profile
from ..replay_report import Progress, Report
from ..time_text import shown_ms, shown_time
from .console import ProgressView, out, plain

__all__ = ["ReplayView", "say", "show_bad", "show_columns", "show_refused", "show_replay"]

_RATED = 10_000
_LAG_S = 1.0
_SHOWN_COLUMNS = 40
_FEW_COLUMNS = 12


class ReplayView(ProgressView):
    """Progress of a replay."""

    def replaying(self, name: str, progress: Progress) -> None:
        """A replay's progress."""
        said = f"{progress.sent:,} records  {progress.rate:,.0f}/s"
        facts: dict[str, Any] = {"sent": progress.sent, "rate": round(progress.rate)}
        if progress.left_s is not None:
            facts["left_s"] = round(progress.left_s, 1)
            said += f"  {shown_ms(progress.left_s * 1000)} left"
        if progress.at_ms:
            facts["at"] = shown_time(progress.at_ms)
            said += f"  at {facts['at']}"
        if progress.lag_s >= _LAG_S:
            facts["lag_s"] = round(progress.lag_s, 1)
            said += f"  {progress.lag_s:,.0f} s behind"
        self.update(name, progress.done_bytes, progress.size_bytes or None, said, **facts)


def show_replay(report: Report) -> None:
    """What a replay did."""
    if report.already_done:
        out.print(
            f"run {plain(report.run_id)} was finished before: {report.sent:,} records are in "
            f"[bold]{plain(report.topic)}[/bold]; nothing was written",
            markup=True,
        )
        for warning in report.warnings:
            out.print(f"  {warning}", style="yellow")
        return
    resumed = f", resumed after {report.resumed_from:,}" if report.resumed_from else ""
    spread = "  ".join(f"{p}: {n:,}" for p, n in sorted(report.counts.items()))
    out.print(
        f"[bold]{report.sent_now:,}[/bold] records → [bold]{plain(report.topic)}[/bold] in {report.seconds:.1f} s"
        f"{f' ({report.rate:,.0f}/s)' if report.sent_now >= _RATED else ''}{resumed}",
        markup=True,
    )
    out.print(f"  run {report.run_id}   partitions {spread or '-'}")
    if report.profile.columns:
        say("columns", f"of the first {report.profile.records:,} records; --dry-run looks at more")
        show_columns(report.profile, {}, _FEW_COLUMNS, headed="")
    show_bad(report)
    if not report.done:
        out.print("  stopped before the end" + ("; the same command goes on from there" if report.resumable else ""))


def show_bad(report: Report) -> None:
    """What was not as it should be."""
    if report.skipped:
        out.print(f"  {report.skipped:,} bad lines skipped", style="yellow")
    if report.dead_letters:
        out.print(f"  {report.dead_letters:,} bad lines in {report.topic}.dlq", style="yellow")
    for example in report.examples[:3]:
        out.print(f"    {example}", markup=False)
    if report.left_out:
        out.print(f"  {report.left_out:,} were read and left out")
    if report.late:
        out.print(
            f"  {report.late:,} records were late in their source, by {shown_ms(report.late_ms)} at most; "
            "they keep their places (--disorder)",
            style="yellow",
        )
    for warning in report.warnings:
        out.print(f"  {warning}", style="yellow")


def show_refused(report: Report) -> None:
    """Columns of a run's input with values that the type of the topic refuses."""
    for name, column in report.profile.columns.items():
        if column.broken:
            out.print(
                f"  column {_shown(name)}: {column.broken:,} of the first {report.profile.records:,} records that the "
                f"topic's type refuses: {column.example}",
                style="yellow",
                markup=False,
            )


def show_columns(
    profile: Profile, guessed: Mapping[str, str], most: int = _SHOWN_COLUMNS, headed: str = "columns"
) -> None:
    """Of each column its type where the files do not say it, nulls, least and largest value."""
    shown = sorted(profile.columns.items(), key=lambda pair: not pair[1].broken)[:most]  # what is refused comes first
    for number, (name, column) in enumerate(shown):
        parts = [f"{guessed[name]} (guessed)"] if name in guessed else []
        if column.least is not None:
            parts.append(f"{_shown(column.least)} … {_shown(column.most)}")
        parts.append(f"{column.nulls:,} null" if column.nulls else "no nulls")
        if column.broken:
            parts.append(f"{column.broken:,} that the topic's type refuses: {column.example}")
        say(headed if not number else "", f"{_shown(name)}: {', '.join(parts)}")
    if len(profile.columns) > most:
        say("", f"… and {len(profile.columns) - most:,} more")


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode().strip('"') if not isinstance(value, str) else repr(value)[1:-1]


def say(name: str, text: str) -> None:
    out.print(f"  {name:<10}{text}", markup=False, highlight=False, soft_wrap=True)
