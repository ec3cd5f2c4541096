"""The output of a replay, for `replay`, `run` and `unpack`: its progress, and the report at its end."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..pipeline.column_profile import Profile
from ..replay_report import Progress, Report
from ..time_text import format_duration_ms, format_time
from .console import ProgressView, counted, out, plain

__all__ = ["ReplayView", "print_field", "show_bad_lines", "show_columns", "show_rejected", "show_replay"]

_RATED = 10_000  # the rate of fewer records would only show the time of a start
_LAG_S = 1.0
_SHOWN_COLUMNS = 40
_FEW_COLUMNS = 12


class ReplayView(ProgressView):
    """Shows the progress of a replay."""

    def replaying(self, name: str, progress: Progress) -> None:
        """Show the progress of the replay called `name`; called after each commit."""
        status = f"{progress.sent:,} records  {progress.rate:,.0f}/s"
        facts: dict[str, object] = {"records": progress.sent, "rate": round(progress.rate)}
        if progress.left_s is not None:
            facts["remaining_s"] = round(progress.left_s, 1)
            status += f"  {format_duration_ms(progress.left_s * 1000)} left"
        if progress.at_ms:
            facts["event_time"] = format_time(progress.at_ms)
            status += f"  at {facts['event_time']}"
        if progress.lag_s >= _LAG_S:
            facts["behind_s"] = round(progress.lag_s, 1)
            status += f"  {progress.lag_s:,.0f} s behind"
        self.update(name, progress.done_bytes, progress.size_bytes or None, status, unit="bytes", **facts)


def show_replay(report: Report) -> None:
    """Print the report of a replay."""
    if report.already_done:
        out.print(
            f"run {plain(report.run_id)} has already finished: {counted(report.sent, 'record')} in "
            f"[bold]{plain(report.topic)}[/bold]; nothing was written",
            markup=True,
        )
        for warning in report.warnings:
            out.print(f"  {warning}", style="yellow")
        return
    resumed = f", resumed after {counted(report.resumed_from, 'record')}" if report.resumed_from else ""
    partitions = "  ".join(f"{p}: {n:,}" for p, n in sorted(report.counts.items()))
    out.print(
        f"produced [bold]{counted(report.sent_now, 'record')}[/bold] to [bold]{plain(report.topic)}[/bold] "
        f"in {report.seconds:.1f} s{f' ({report.rate:,.0f}/s)' if report.sent_now >= _RATED else ''}{resumed}",
        markup=True,
    )
    out.print(f"  run {report.run_id}   records by partition {partitions or '-'}")
    show_columns(report.profile, {}, _FEW_COLUMNS)
    show_bad_lines(report)
    if not report.done:
        out.print("  stopped before the end" + ("; the same command resumes" if report.resumable else ""))


def show_bad_lines(report: Report) -> None:
    """Print the counts of bad lines, filtered records and late records, and the warnings."""
    if report.skipped:
        out.print(f"  skipped {counted(report.skipped, 'bad line')}", style="yellow")
    if report.dead_letters:
        out.print(f"  sent {counted(report.dead_letters, 'bad line')} to {report.topic}.dlq", style="yellow")
    for example in report.examples[:3]:
        out.print(f"    {example}", markup=False)
    if report.filtered_out:
        out.print(f"  {report.filtered_out:,} filtered out")
    if report.out_of_order:
        out.print(
            f"  {counted(report.out_of_order, 'record')} out of order, by at most "
            f"{format_duration_ms(report.out_of_order_ms)}; kept in their original order (--out-of-order)",
            style="yellow",
        )
    for warning in report.warnings:
        out.print(f"  {warning}", style="yellow")


def show_rejected(report: Report) -> None:
    """Print the columns whose values the type of the topic rejects."""
    for name, column in report.profile.columns.items():
        if column.refused:
            out.print(
                f"  column {_shown(name)}: the topic's type rejects {counted(column.refused, 'value')} of "
                f"{report.profile.scope}: {report.profile.example_of(name)}",
                style="yellow",
                markup=False,
            )


def show_columns(profile: Profile, inferred: Mapping[str, str], max_columns: int = _SHOWN_COLUMNS) -> None:
    """Print the columns of a profile, and first of how many records their figures are.

    Each column is printed with its type if that was inferred, its smallest and largest value, the number of nulls and
    that of rejected values.

    Args:
        inferred: types that were inferred, by column.
        max_columns: columns to print; columns with rejected values come first.
    """
    if not profile.columns:
        return
    print_field("columns", f"figures of {profile.scope}:")
    shown = sorted(profile.columns.items(), key=lambda pair: not pair[1].refused)[:max_columns]
    for name, column in shown:
        parts = [f"{inferred[name]} (inferred)"] if name in inferred else []
        if (span := profile.range_of(name)) is not None:
            parts.append(f"{_shown(span[0])} … {_shown(span[1])}")
        parts.append(f"{column.nulls:,} null" if column.nulls else "no nulls")
        if column.refused:
            parts.append(f"{column.refused:,} rejected by the topic's type: {profile.example_of(name)}")
        print_field("", f"{_shown(name)}: {', '.join(parts)}")
    if len(profile.columns) > max_columns:
        print_field("", f"… and {len(profile.columns) - max_columns:,} more")


def print_field(label: str, text: str) -> None:
    """Print a line of a report with a label in front."""
    out.print(f"  {label:<12}{text}", markup=False, highlight=False, soft_wrap=True)


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode().strip('"') if not isinstance(value, str) else repr(value)[1:-1]
