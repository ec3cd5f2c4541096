"""The bench of windows: sums by key and window against sums by key, by row and packed, with ratios within each turn.

    python tests/bench/windows.py                          3,000,000 records, three turns
    python tests/bench/windows.py --records 500000 --repeat 1 --only packed
    python tests/bench/windows.py --window 1h              hardly more windows than users

The records are 1 ms apart, so a minute has 60,000, of some 25,000 users: each window of a user is opened, closed and
written to the changelog for two or three records. Windows of an hour show what windows cost beside that. Each measure
runs in a process of its own, and its sums are checked.
"""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import click
from anabranch.topics.admin import Admin
from anabranch.topics.durations import duration_ms
from anabranch.topics.errors import AnabranchError
from main import broker, filled, progress
from measure import BenchError, Measure, Run, Source
from records import fill, fill_packed, orders
from run_outcome import Outcome


class Windowed(Measure):
    """A measure whose table may have windows: its changelog is not looked at."""

    def _check(self, source: Source, name: str, outcome: Outcome) -> None:
        assert outcome.found is not None
        wrong = source.truth.differs(outcome.found)
        if wrong:
            raise BenchError(f"{self.name}: the table is wrong: {wrong}")
        Admin(source.cluster).delete([f"{name}-totals-changelog"])


class Group(NamedTuple):
    """Measures of one topic; ratios are to the first one."""

    packed: bool
    styles: dict[str, str]


GROUPS = {
    "rows": Group(False, {"flow": "sum by key", "window": "by key and window", "window-field": "the same, field"}),
    "packed": Group(True, {"flow": "sum by key", "window": "by key and window", "window-field": "the same, field"}),
    "key-by": Group(False, {"flow-key-by": "sum by key_by", "window-key-by": "by key_by and window"}),
    "packed-key-by": Group(True, {"flow-key-by": "sum by key_by", "window-key-by": "by key_by and window"}),
}


@click.command()
@click.option("--records", default=3_000_000, show_default=True, help="How many records.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1), help="Runs of each measure.")
@click.option("--only", multiple=True, type=click.Choice(list(GROUPS)), help="Leave the other groups out.")
@click.option("--window", default="1m", show_default=True, help="Length of the windows.")
@click.option("--bootstrap-server", help="Use this cluster instead of a broker of our own.")
def main(records: int, repeat: int, only: tuple[str, ...], window: str, bootstrap_server: str | None) -> None:
    """Measure windows against sums by key."""
    length_ms = duration_ms(window, "window", zero=False)
    windows = len({(user, at // length_ms) for user, _, at in orders(records)})
    progress.print(f"windows of {window}: {windows:,}, {windows / records:.2f} a record")
    load = os.getloadavg()[0]
    if load > 0.5:
        progress.print(f"[yellow]the machine is busy (load {load:.1f}): figures will be too low[/]")
    folder = Path(tempfile.mkdtemp(prefix="anabranch-bench-"))
    logging.basicConfig(filename=folder / "bench.log")  # what librdkafka says in this process
    groups = {name: group for name, group in GROUPS.items() if not only or name in only}
    try:
        with broker(bootstrap_server) as (cluster, _), ExitStack() as topics:
            sources: dict[bool, Source] = {}
            for packed in dict.fromkeys(group.packed for group in groups.values()):
                stem, how = ("packed", fill_packed) if packed else ("windows", fill)
                sources[packed] = topics.enter_context(filled(cluster, stem, records, how))
            for name, group in groups.items():
                _measure(name, group, sources[group.packed], folder, repeat, window)
    except (BenchError, AnabranchError) as exc:
        progress.print(f"failed: {exc}", style="red", markup=False)
        sys.exit(1)
    shutil.rmtree(folder, ignore_errors=True)


def _measure(name: str, group: Group, source: Source, folder: Path, repeat: int, window: str) -> None:
    runs: dict[str, list[Run]] = {style: [] for style in group.styles}
    options = ("--window", window, *(("--packed",) if group.packed else ()))
    for _ in range(repeat):
        for style, text in group.styles.items():
            run = Windowed(style, text, "worker.py", ("--style", style, *options)).run(source, folder)
            runs[style].append(run)
            progress.print(f"{name}: {text:<24}{run.rate:>12,.0f} records/s, CPU {run.work_cpu_s:.1f} s")
    first = next(iter(runs.values()))
    for style, text in list(group.styles.items())[1:]:
        rates = [run.rate / other.rate for run, other in zip(runs[style], first, strict=True)]
        cpus = [other.work_cpu_s / run.work_cpu_s for run, other in zip(runs[style], first, strict=True)]
        click.echo(
            f"{name}: {text}, of the sum by key: {statistics.median(rates):.2f} "
            f"({min(rates):.2f}-{max(rates):.2f}) of the rate, {statistics.median(cpus):.2f} by CPU"
        )


if __name__ == "__main__":
    main()
