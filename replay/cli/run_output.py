"""The output of `anabranch run`: its progress, and the report at its end."""

from __future__ import annotations

from rich.table import Table as Grid

from ..replay_report import Progress
from ..runs.run_report import RunReport, Watcher
from ..runs.run_verification import RunVerification
from .console import counted, err, out, plain
from .replay_output import ReplayView, show_bad_lines, show_rejected
from .table_grid import show_table

__all__ = ["RunView", "show_run"]

_RATED = 10_000  # the rate of fewer records would only show the time of a start


class RunView(ReplayView, Watcher):
    """Shows the progress of a bounded run."""

    def replaying(self, topic: str, progress: Progress) -> None:
        """Show the progress of the replay into `topic`."""
        super().replaying(f"replay → {topic}", progress)

    def processing(self, done: int, left: int) -> None:
        """Show the progress of the agents, in offsets."""
        self.update("agents", done, done + left, f"{left:,} offsets left", unit="offsets")

    def note(self, text: str) -> None:
        """Print a notice to stderr."""
        err.print(text)


def show_run(report: RunReport) -> None:
    """Print the report of a bounded run."""
    _show_summary(report)
    if report.failures:
        out.print(f"  [red]{counted(report.failures, 'failure')}[/red], excluded from the result:", markup=True)
        for failed in report.failed:
            out.print(f"  {failed.count:>10,} {failed}", markup=False, highlight=False, soft_wrap=True)
    for (table, topic), count in sorted(report.late.items(), key=str):
        if topic is None:
            out.print(f"  late records of table {table} are dropped and not counted here", markup=False)
        elif count:
            out.print(
                f"  {counted(count, 'late record')} of table {table}, in no window: see topic {topic}", markup=False
            )
    for agent, count in sorted(report.verification.unfired.items()) if report.verification is not None else ():
        if count:
            out.print(
                f"  {counted(count, 'timer')} of agent {agent}, set by timers for after the end: not fired",
                markup=False,
            )
    if report.unrecorded:
        out.print(f"  see the workers' logs for records skipped by: {', '.join(report.unrecorded)}", markup=False)
    if not report.into_live:
        _show_verification(report)
    out.print(_topics(report))
    for replay in report.replays:
        if len(report.replays) > 1 and replay.has_remarks:
            out.print(f"  {replay.topic}:", markup=False)
        show_bad_lines(replay)
        show_rejected(replay)
    if not report.finished_before:
        out.print(_timeline(report))
    if report.restarts:
        out.print(f"  restarted {counted(report.restarts, 'crashed worker')}; the result is not affected")
    if report.verification is not None:
        _show_order(report.verification)
    if report.snapshot is not None:
        show_table(report.snapshot)
    if report.output is not None and report.snapshot is not None:
        keys = counted(len(report.snapshot), "key")
        out.print(f"wrote {keys} to [bold]{plain(report.output)}[/bold]", markup=True)
    for count, topic, path in report.topics_written:
        out.print(f"wrote {counted(count, 'record')} of {plain(topic)} to [bold]{plain(path)}[/bold]", markup=True)


def _show_summary(report: RunReport) -> None:
    records = counted(report.records, "record")
    if report.finished_before:
        run = f"the run into the live topics of {report.app_id}" if report.into_live else f"run {report.run_id}"
        out.print(f"{run} has already finished: {records}; nothing was computed again", markup=False)
        return
    rate = f"{report.records_now / report.seconds:,.0f}/s" if report.records_now >= _RATED else ""
    guarantee = "" if report.failures else "exactly once"
    facts = ", ".join(filter(None, (rate, guarantee)))
    run = f"into the live topics of {report.app_id}" if report.into_live else f"run {report.run_id}"
    out.print(
        f"processed [bold]{records}[/bold] in {report.seconds:.1f} s{f' ({facts})' if facts else ''}   {plain(run)}",
        markup=True,
    )


def _topics(report: RunReport) -> Grid:
    """Return a table of the topics: what the run produced, and what the agents processed of it."""
    produced: dict[str, int] = {}
    for replay in report.replays:
        produced[replay.topic] = produced.get(replay.topic, 0) + replay.sent
    processed = {stage.topic: stage for stage in report.processed if stage.records}
    rated = any(stage.records >= _RATED for stage in processed.values())
    grid = _grid("topic", "produced", "processed", "seconds", *(["records/s"] if rated else []))
    for topic in dict.fromkeys([*produced, *processed]):
        row = [f"{produced[topic]:,}" if topic in produced else ""]
        if (stage := processed.get(topic)) is not None:
            row += [f"{stage.records:,}", f"{stage.seconds:.1f}"]
            row += [f"{stage.rate:,.0f}"] if stage.records >= _RATED else []
        grid.add_row(f"  {topic}", *row)
    return grid


def _show_order(verification: RunVerification) -> None:
    """Print which orders of records give the result, what it depends on otherwise, and the digests."""
    because = verification.order_matters
    out.print(f"  {verification.sentence}{':' if because else ''}", markup=False, highlight=False, soft_wrap=True)
    for reason in because:
        out.print(f"    {reason}", markup=False, highlight=False, soft_wrap=True)
    if verification.held_jumps:
        records = counted(verification.held_jumps, "record")
        out.print(f"  {records} too far ahead of the others moved no time (max_jump)", markup=False)
    if verification.digests:
        grid = _grid("digest", "records", "")
        for name, records, digest in verification.digests:
            grid.add_row(f"  {name}", f"{records:,}", digest)
        out.print(grid)


def _timeline(report: RunReport) -> Grid:
    grid = _grid("timeline", "seconds")
    for event, seconds in report.timeline.seconds.items():
        grid.add_row(f"  {event}", f"{seconds:.1f}")
    return grid


def _grid(first: str, *numbers: str) -> Grid:
    """Return a table of a text and numbers, indented as the lines around it."""
    grid = Grid(box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    grid.add_column(f"  {first}", no_wrap=True, overflow="fold")
    for column in numbers:
        grid.add_column(column, justify="right", no_wrap=True)
    return grid


def _show_verification(report: RunReport) -> None:
    topics = "the topic" if len({replay.topic for replay in report.replays}) == 1 else "the topics"
    more = report.found - report.records
    from_agents = f", and {more:,} from agents" if more > 0 else ""
    out.print(
        f"  verified: {counted(report.records, 'record')} produced, "
        f"{report.found - max(0, more):,} found in {topics}{from_agents}"
    )
