"""What a person sees of a replay: progress, what was sent, and what would be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ...topics.partitioners import Plan
from ..pipeline.column_profile import Profile
from ..pipeline.dry_run import DryRun
from ..pipeline.pace import Pace
from ..pipeline.partitioning import place
from ..pipeline.pipeline import Pipeline
from ..replay_report import NEAR_1970, Progress, Report
from ..sources.history import History
from ..sources.source import Replayable
from ..sources.source_record import SourceRecord
from ..time_text import shown_ms, shown_time
from .console import ProgressView, out, plain

__all__ = ["ReplayView", "show_bad", "show_refused", "show_replay", "show_survey"]

_RATED = 10_000
_LAG_S = 1.0
_SHOWN_PARTS = 10
_SHOWN_CHARS = 90
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
        self.move(name, progress.done_bytes, progress.size_bytes or None, said, **facts)


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
        _say("columns", f"of the first {report.profile.records:,} records; --dry-run looks at more")
        _say_columns(report.profile, {}, _FEW_COLUMNS, headed="")
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


def show_survey(
    found: DryRun,
    history: Replayable,
    course: Pipeline,
    pace: Pace,
    *,
    topic: str,
    plan: Plan,
    there: bool,
    run: str,
) -> None:
    """What a replay would do.

    Args:
        there: the topic exists.
        run: how far the run is, in words.
    """
    out.print("[bold]dry run[/bold]: nothing is written", markup=True, highlight=False)
    order = "merged by time" if course.merges(history) else "one after another"
    size = f"{history.size_bytes:,} bytes" if history.size_bytes else "of unknown size"
    names = [part.name for part in history.parts] or list(history.specs)
    _say("sources", f"{len(names):,}, {size}, {order if len(names) > 1 else 'in its order'}")
    for name in names[:_SHOWN_PARTS]:
        _say("", name)
    if len(names) > _SHOWN_PARTS:
        _say("", f"… and {len(names) - _SHOWN_PARTS:,} more")
    _say("run", run)
    _say("topic", f"{topic}, {plan.partitions} partitions" + ("" if there else "; it would be made"))
    read = "" if found.whole else f"; estimated from the first {found.records + found.notes.left_out:,}"
    about = "" if found.whole else "about "
    each = "" if course.rounds == 1 else f" a round, {course.rounds or 'endless'} rounds"
    _say("records", f"{about}{found.in_all:,}{each}{read}")
    if found.notes.left_out:
        _say("left out", f"{found.notes.left_out:,}")
    if found.over_time.counts():
        begin_ms, end_ms = found.over_time.span_ms
        _say("time", f"{shown_time(begin_ms)} … {shown_time(end_ms)} ({shown_ms(end_ms - begin_ms)})")
    if found.notes.late:
        worst = shown_ms(found.notes.late_ms)
        _say("late", f"{found.notes.late:,} records, by {worst} at most: see --disorder")
    if found.bad:
        _say("bad lines", f"{found.bad:,}, for example {found.examples[0]}")
    _say_columns(found.profile, dict(history.schema.format.guessed) if isinstance(history, History) else {})
    if found.near_1970:
        _say("near 1970", f"{found.near_1970:,} records; {NEAR_1970}")
    _say("spread", _spread(found.partitions, plan.partitions))
    takes_s = found.takes_s(pace, course.rounds)
    if takes_s is not None:
        _say("takes", f"about {shown_ms(takes_s * 1000)}")
    for number, item in enumerate(found.first):
        _say("" if number else "first", _shown_item(item, plan, number))


def _say_columns(
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
        _say(headed if not number else "", f"{_shown(name)}: {', '.join(parts)}")
    if len(profile.columns) > most:
        _say("", f"… and {len(profile.columns) - most:,} more")


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode().strip('"') if not isinstance(value, str) else repr(value)[1:-1]


def _say(name: str, text: str) -> None:
    out.print(f"  {name:<10}{text}", markup=False, highlight=False, soft_wrap=True)


def _spread(counts: Mapping[int, int], partitions: int) -> str:
    total = sum(counts.values()) or 1
    return "  ".join(f"{p}: {counts.get(p, 0):,} ({counts.get(p, 0) / total:.0%})" for p in range(partitions))


def _shown_item(item: SourceRecord, plan: Plan, number: int) -> str:
    (partition,) = place([item], plan, number)
    key = "-" if item[0] is None else item[0].decode(errors="replace")
    value = (item[1] or b"").decode(errors="replace")
    cut = value if len(value) <= _SHOWN_CHARS else value[: _SHOWN_CHARS - 1] + "…"
    return "  ".join([*([shown_time(item[2])] if item[2] else []), f"partition {partition}", key, cut])
