"""Bench of peers: other stream processors on the same data, with ratios within each turn.

    python tests/bench/comparing.py                            all of it: half an hour, and more the first time
    python tests/bench/comparing.py --only record --only quix  those two
    python tests/bench/comparing.py --rows 2000000 --records 500000 --turns 1 --file-turns 1     a look

The broker is warmed up, then everybody runs once unmeasured, on little. Each run is a process of its own, and each
result is checked: a wrong sum fails the bench. Contenders take turns, another one first each time; ratios are those of
one turn. What peers need is made under a folder of the bench and kept there; a peer that cannot be had here is left
out, and says why.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import click
from amounts import Amounts
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import AnabranchError
from main import broker, filled, progress
from measure import BenchError
from peers.chart import write_chart
from peers.contender_result import Figure
from peers.environment import Missing
from peers.file_contenders import ON_FILE, THREADS, OnFile
from peers.standings import Field, Standing
from peers.topic_contenders import ON_TOPIC, OnTopic
from peers.turns import take_turns
from peers.window_contenders import ON_WINDOWS
from records import Truth, windowed_truth
from rich.console import Console
from warm_up import warm_broker, warm_files

_CACHE = Path(__file__).parents[2] / ".bench"
_LITTLE_ROWS = 1_000_000
_KEYS = [contender.who.key for contender in (*ON_TOPIC, *ON_WINDOWS, *ON_FILE)]


@click.command()
@click.option("--records", default=3_000_000, show_default=True, help="How many records on the topic.")
@click.option("--head", default=300_000, show_default=True, help="How many of them Quix Streams gets.")
@click.option("--rows", default=20_000_000, show_default=True, help="How many rows in the files.")
@click.option("--turns", default=5, show_default=True, type=click.IntRange(1), help="Runs of each on the topic.")
@click.option("--file-turns", default=3, show_default=True, type=click.IntRange(1), help="Runs of each on the files.")
@click.option("--warm-s", default=15.0, show_default=True, help="How long to warm the broker up, seconds.")
@click.option("--only", multiple=True, type=click.Choice(_KEYS), help="Leave the others out.")
@click.option("--bootstrap-server", help="Use this cluster instead of a broker of our own.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures to FILE.")
@click.option("--chart", type=click.Path(dir_okay=False, path_type=Path), help="Draw them into FILE (SVG).")
@click.option(
    "--cache", type=click.Path(file_okay=False, path_type=Path), default=_CACHE, help="Folder for what peers need."
)
@click.option("--keep", is_flag=True, help="Keep the folder with the logs.")
def main(
    records: int,
    head: int,
    rows: int,
    turns: int,
    file_turns: int,
    warm_s: float,
    only: tuple[str, ...],
    bootstrap_server: str | None,
    out: Path | None,
    chart: Path | None,
    cache: Path,
    keep: bool,
) -> None:
    """Measure anabranch against PySpark, DuckDB, Kafka Streams, Flink and Quix Streams."""
    on_topic = [contender for contender in ON_TOPIC if not only or contender.who.key in only]
    on_windows = [contender for contender in ON_WINDOWS if not only or contender.who.key in only]
    on_file = [contender for contender in ON_FILE if not only or contender.who.key in only]
    head = min(head, records)
    cache = cache.absolute()
    cache.mkdir(parents=True, exist_ok=True)
    left_out = _prepare([*on_topic, *on_windows, *on_file], cache)
    load = os.getloadavg()[0]
    if load > 0.5:
        progress.print(f"[yellow]the machine is busy (load {load:.1f}): figures will be too low[/]")
    folder = Path(tempfile.mkdtemp(prefix="anabranch-bench-"))
    logging.basicConfig(filename=folder / "bench.log")  # what librdkafka says in this process
    topic_runs: dict[str, list[Figure]] = {}
    window_runs: dict[str, list[Figure]] = {}
    file_runs: dict[str, list[Figure]] = {}
    try:
        with broker(bootstrap_server) as (cluster, _):
            with progress.status(f"warming the broker up for {warm_s:.0f} s"):
                transactions = warm_broker(cluster, warm_s)
            progress.print(f"broker warmed up with {transactions:,} transactions")
            if present := [contender for contender in on_topic if contender.who.key not in left_out]:
                topic_runs = _on_topic(cluster, present, folder, cache, records, head, turns)
            if present := [contender for contender in on_windows if contender.who.key not in left_out]:
                window_runs = _on_topic(cluster, present, folder, cache, records, head, turns, truth=windowed_truth)
            if present := [contender for contender in on_file if contender.who.key not in left_out]:
                file_runs = _on_file(cluster, present, folder, cache, rows, file_turns)
    except (BenchError, AnabranchError) as exc:
        progress.print(f"failed: {exc}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    standing = Standing(
        Field(
            f"a topic of {records:,} JSON records, exactly-once (Quix Streams: {head:,})",
            *("records", "record"),
            [contender.who for contender in on_topic],
            topic_runs,
            left_out,
        ),
        Field(
            f"a sum by key and minute of {records:,} JSON records, exactly-once (Quix Streams: {head:,})",
            *("records", "windows"),
            [contender.who for contender in on_windows],
            window_runs,
            left_out,
        ),
        Field(
            f"a file of {rows:,} rows into a file of sums, {THREADS} threads, from start to end",
            *("rows", "packed"),
            [contender.who for contender in on_file],
            file_runs,
            left_out,
        ),
        load,
    )
    _show(standing)
    if out is not None:
        out.write_text(json.dumps(standing.facts(), indent=1) + "\n")
    if chart is not None:
        write_chart(
            [standing.on_topic, standing.on_windows, standing.on_file], _note(records, turns, file_turns), chart
        )
    if keep:
        click.echo(f"logs: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _note(records: int, turns: int, file_turns: int) -> str:
    """What stands below the picture."""
    return (
        f"Bars are medians of {turns} turns on the topic and {file_turns} on the files, lines their range; "
        f"{os.cpu_count()} cores, the broker among them. make bench-peers"
    )


def _prepare(contenders: Iterable[OnTopic | OnFile], cache: Path) -> dict[str, str]:
    """Have everybody make what they need; returns who cannot, and why."""
    left_out: dict[str, str] = {}
    for contender in contenders:
        try:
            contender.prepare(cache, progress.print)
        except Missing as exc:
            left_out[contender.who.key] = str(exc)
            progress.print(f"{contender.who.name} is left out: {exc}", style="yellow", markup=False, soft_wrap=True)
    return left_out


def _on_topic(
    cluster: Cluster,
    contenders: list[OnTopic],
    folder: Path,
    cache: Path,
    records: int,
    head: int,
    turns: int,
    truth: Callable[[int], Truth] | None = None,
) -> dict[str, list[Figure]]:
    with filled(cluster, "head", head) as few, filled(cluster, "orders", records) as many:
        if truth is not None:
            few, many = (replace(source, truth=truth(source.truth.records)) for source in (few, many))
        with progress.status("everybody once, on little"):
            for contender in contenders:
                contender.run(few, folder, cache)
        return take_turns(contenders, turns, lambda c: c.run(few if c.head_only else many, folder, cache), _tell)


def _on_file(
    cluster: Cluster, contenders: list[OnFile], folder: Path, cache: Path, rows: int, turns: int
) -> dict[str, list[Figure]]:
    with progress.status(f"{rows:,} rows"):
        amounts = Amounts.written(rows, cache / "data")
        few = Amounts.written(min(rows, _LITTLE_ROWS), cache / "data")
        warm_files(amounts.text, amounts.parquet)
    with progress.status("everybody once, on little"):
        for contender in contenders:
            contender.run(few, cluster, folder, cache)
    return take_turns(contenders, turns, lambda contender: contender.run(amounts, cluster, folder, cache), _tell)


def _tell(line: str) -> None:
    progress.print(line, markup=False, soft_wrap=True)


def _show(standing: Standing) -> None:
    console = Console(width=max(Console().width, 130))
    for field in (standing.on_topic, standing.on_windows, standing.on_file):
        if field.contenders:
            console.print(field.table())
        for note in field.notes():
            click.echo(note)
    for target in standing.targets():
        click.echo(target.line())


if __name__ == "__main__":
    main()
