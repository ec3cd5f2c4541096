"""What a person sees: progress while it goes on, a report at the end. JSON lines where nobody sits at a terminal."""

from __future__ import annotations

from ..replay_report import Progress
from ..runs.bounded_run import RunReport, Watcher
from .console import err, out, plain
from .replay_output import ReplayView, show_bad, show_refused
from .table_grid import show_table

__all__ = ["RunView", "show_run"]

_RATED = 10_000


class RunView(ReplayView, Watcher):
    """Progress of a bounded run."""

    def replaying(self, topic: str, progress: Progress) -> None:
        """As a replay's."""
        super().replaying(f"replay → {topic}", progress)

    def draining(self, done: int, left: int) -> None:
        """Agents at work."""
        self.update("agents", done, done + left, f"{left:,} offsets left", left=left)

    def note(self, text: str) -> None:
        """A line."""
        err.print(text)


def show_run(report: RunReport) -> None:
    """What a bounded run did."""
    if report.finished_before:
        what = f"into live of {report.app_id}" if report.into_live else f"run {report.run_id}"
        out.print(f"{what} was finished before: {report.records:,} records; nothing was computed again")
    else:
        # Of a few records it would only say how long a start takes.
        rate = f"{report.records_now / report.seconds:,.0f}/s" if report.records_now >= _RATED else ""
        promise = "" if report.failures else "exactly once"
        facts = ", ".join(filter(None, (rate, promise)))
        out.print(
            f"[bold]{report.records:,}[/bold] records through the agents in {report.seconds:.1f} s"
            f"{f' ({facts})' if facts else ''}   {'into live' if report.into_live else plain(f'run {report.run_id}')}",
            markup=True,
        )
    if report.failures:
        out.print(f"  [red]{report.failures:,} failed[/red], and the result is without them:", markup=True)
        for failed in report.failed:
            out.print(f"  {failed.count:>10,} {failed}", markup=False, highlight=False, soft_wrap=True)
    if report.unrecorded:
        out.print(f"  what agents skip is in the workers' logs: {', '.join(report.unrecorded)}", markup=False)
    for replay in report.replays:
        out.print(f"  {replay.sent:>10,} → {replay.topic}")
        show_bad(replay)
        show_refused(replay)
    more = f", {report.found - report.records:,} more of its agents" if report.found > report.records else ""
    if not report.into_live:
        out.print(f"  certificate: {report.records:,} records sent, {report.found:,} in its topics{more}")
    for stage in report.stages:
        if stage.records:
            rate = f" ({stage.rate:,.0f}/s)" if stage.records >= _RATED else ""
            out.print(f"  {stage.records:>10,} worked off in {stage.topic}, through after {stage.seconds:.1f} s{rate}")
    if not report.finished_before:
        out.print(f"  times: {report.moments}")
    if report.restarts:
        out.print(f"  workers killed and started again: {report.restarts}; totals are not touched by that")
    if report.snapshot is not None:
        show_table(report.snapshot)
    if report.output is not None and report.snapshot is not None:
        out.print(f"{len(report.snapshot):,} keys → [bold]{plain(report.output)}[/bold]", markup=True)
