"""Bench of archives: a topic into files, compared with a loop that only counts records.

    python tests/bench/archiving.py                      1,000,000 records as Parquet and as JSON Lines, three times

Counting takes the same records with librdkafka's `consume` and asks nothing of them but whether they are errors. Each
measure runs in a process of its own, in turn with the others; each archive's manifest has to name every record.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

import click
from anabranch.replay.archive.archiver import Archiver
from anabranch.topics.cluster import Cluster
from confluent_kafka import Consumer, TopicPartition
from main import broker, filled
from records import PARTITIONS
from run_outcome import peak_bytes
from timed_runs import Moved, in_process, in_turn, median_rate, show, write_runs

_LEAST = 0.3
ENCODINGS = ("parquet", "jsonl")


@click.group(invoke_without_command=True)
@click.option("--records", default=1_000_000, show_default=True)
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1))
@click.option("--bootstrap-server", help="Use this cluster instead of a broker of our own.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures to FILE.")
@click.pass_context
def main(context: click.Context, records: int, repeat: int, bootstrap_server: str | None, out: Path | None) -> None:
    """Measure how fast topics become files."""
    if context.invoked_subcommand:
        return
    folder = Path(tempfile.mkdtemp(prefix="anabranch-bench-"))
    logging.basicConfig(filename=folder / "bench.log")
    try:
        with broker(bootstrap_server) as (cluster, _), filled(cluster, "archive", records) as source:

            def measured(name: str) -> Moved:
                return _measure(cluster, name, source.topic, folder, records)

            runs = in_turn(("counting", *ENCODINGS), repeat, measured)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show("a topic into files, exactly once", "counting", "of counting", runs)
    for name in ENCODINGS:
        ratio = median_rate(runs[name]) / median_rate(runs["counting"])
        click.echo(f"{'✓' if ratio >= _LEAST else '✗'} archive as {name}, at least {_LEAST} of counting: {ratio:.2f}")
    write_runs(runs, out)


@main.command(hidden=True)
@click.argument("name")
@click.argument("servers")
@click.argument("topic")
@click.argument("records", type=int)
@click.argument("folder", type=click.Path(path_type=Path))
def measure(name: str, servers: str, topic: str, records: int, folder: Path) -> None:
    """One run, in this process."""
    logging.basicConfig()
    cluster = Cluster.named(servers)
    if name == "counting":
        run = _count(cluster, topic, records)
    else:
        began_s = time.monotonic()
        report = Archiver(cluster, topic, folder / name, encoding=name).archive()  # pyright: ignore[reportArgumentType]
        seconds = time.monotonic() - began_s
        size = sum(entry.size_bytes for entry in report.manifest.files)
        run = Moved(report.records, seconds, peak_bytes(os.getpid()), size)
    run.write(folder / f"{name}.json")


def _count(cluster: Cluster, topic: str, records: int) -> Moved:
    consumer = Consumer(
        cluster.config(
            group_id="anabranch-bench-count",
            enable_auto_commit=False,
            isolation_level="read_committed",
            fetch_queue_backoff_ms=2,
        )
    )
    began_s = time.monotonic()
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    found = 0
    while found < records:
        messages = consumer.consume(5_000, 0.2)
        errors = [message for message in messages if message.error() is not None]
        if errors:
            raise RuntimeError(errors[0].error().str())
        found += len(messages)
    seconds = time.monotonic() - began_s
    consumer.close()
    return Moved(found, seconds, peak_bytes(os.getpid()))


def _measure(cluster: Cluster, name: str, topic: str, folder: Path, records: int) -> Moved:
    arguments = ("measure", name, cluster.bootstrap_servers, topic, records, folder)
    run = in_process(name, folder / f"{name}.json", __file__, *arguments)
    shutil.rmtree(folder / name, ignore_errors=True)
    if run.records != records:
        raise click.ClickException(f"{name}: {run.records:,} records instead of {records:,}")
    return run


if __name__ == "__main__":
    main()
