"""The main bench: one broker, the same records for all programs, and all ratios from one run.

    python tests/bench/main.py                      all of it: 3,000,000 records, three times, some minutes
    python tests/bench/main.py --records 300000     a look

Each measure runs in a process of its own and has its result checked: a wrong sum fails the bench. Measures take turns,
so that a machine that gets slower meanwhile is slower for all of them alike. Before the first turn each of ours runs
over few records, unmeasured: it makes the broker's internal topics, and finds out early what is broken.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from anabranch.topics.admin import Admin
from anabranch.topics.cluster import Cluster
from anabranch.topics.devbroker.broker import EmbeddedBroker
from anabranch.topics.errors import AnabranchError
from latency import lines
from latency import measure as measure_latency
from measure import MEASURES, BenchError, Measure, Run, Source
from records import Truth, fill
from report import Report, Weight
from rich.console import Console

progress = Console(stderr=True, highlight=False)


@click.command()
@click.option("--records", default=3_000_000, show_default=True, help="How many records.")
@click.option("--head", default=25_000, show_default=True, help="How many of them stock Faust gets.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1), help="Runs of each measure.")
@click.option(
    "--only", multiple=True, type=click.Choice([m.key for m in MEASURES]), help="Leave the other measures out."
)
@click.option("--bootstrap-server", help="Use this cluster instead of a broker of our own.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures to FILE.")
@click.option("--latency/--no-latency", default=True, show_default=True, help="Measure latency as well.")
@click.option("--keep", is_flag=True, help="Keep the folder with the logs.")
def main(
    records: int,
    head: int,
    repeat: int,
    only: tuple[str, ...],
    bootstrap_server: str | None,
    out: Path | None,
    latency: bool,
    keep: bool,
) -> None:
    """Measure how fast agents are, against librdkafka and against stock Faust."""
    measures = [m for m in MEASURES if not only or m.key in only]
    load = os.getloadavg()[0]
    if load > 0.5:
        progress.print(f"[yellow]the machine is busy (load {load:.1f}): figures will be too low[/]")
    folder = Path(tempfile.mkdtemp(prefix="anabranch-bench-"))
    logging.basicConfig(filename=folder / "bench.log")  # what librdkafka says in this process
    try:
        with broker(bootstrap_server) as (cluster, embedded):
            runs = _take_turns(cluster, measures, folder, records, min(head, records), repeat)
            late = lines(measure_latency(cluster.bootstrap_servers)) if latency else []
            stats = None if embedded is None else embedded.stats
            weight = None if stats is None else Weight(stats.startup_s, stats.rss_bytes(), stats.peak_rss_bytes())
    except (BenchError, AnabranchError) as exc:
        progress.print(f"failed: {exc}", style="red", markup=False)
        sys.exit(1)
    report = Report(records, min(head, records), load, runs, weight)
    Console(width=max(Console().width, 150)).print(report.table())
    click.echo(report.broker_line())
    for target in report.targets():
        click.echo(target.line())
    for line in late:
        click.echo(line)
    if out is not None:
        out.write_text(json.dumps(report.facts(), indent=1) + "\n")
    if keep:
        click.echo(f"logs: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _take_turns(
    cluster: Cluster, measures: list[Measure], folder: Path, records: int, head: int, repeat: int
) -> dict[str, list[Run]]:
    with filled(cluster, "head", head) as few, filled(cluster, "orders", records) as many:
        for measure in measures:
            if not measure.head_only:
                measure.run(few, folder)
        runs: dict[str, list[Run]] = {measure.key: [] for measure in measures}
        for turn in range(repeat):
            for measure in measures:
                run = measure.run(few if measure.head_only else many, folder)
                runs[measure.key].append(run)
                where = f"{turn + 1}/{repeat} {measure.name}"
                progress.print(f"{where:<38}{run.rate:>12,.0f} records/s {run.seconds:>8.1f} s")
        return runs


@contextmanager
def filled(cluster: Cluster, stem: str, count: int, how: Callable[..., Truth] = fill) -> Iterator[Source]:
    """A topic with the first `count` records; deleted afterwards. `how`: or `fill_packed`."""
    topic = f"bench-{stem}-{uuid.uuid4().hex[:8]}"
    began = time.monotonic()
    with progress.status(f"{count:,} records") as status:
        truth = how(cluster, topic, count, lambda done: status.update(f"{done:,} of {count:,} records"))
    progress.print(f"{count:,} records of {truth.keys:,} keys produced in {time.monotonic() - began:.1f} s")
    try:
        yield Source(cluster, topic, truth)
    finally:
        Admin(cluster).delete([topic])


@contextmanager
def broker(bootstrap_server: str | None) -> Iterator[tuple[Cluster, EmbeddedBroker | None]]:
    """The cluster that was named, or one of our own."""
    if bootstrap_server is not None:
        yield Cluster.named(bootstrap_server), None
        return
    with EmbeddedBroker(on_progress=progress.print) as embedded:
        progress.print(f"embedded broker at {embedded.bootstrap_servers} after {embedded.stats.startup_s:.1f} s")
        yield Cluster.named(embedded.bootstrap_servers), embedded


if __name__ == "__main__":
    main()
