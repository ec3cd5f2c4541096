"""The bench of archives: a topic into files, against a loop that only counts what it consumes.

    python tests/bench/archiving.py                      1,000,000 records as Parquet and as JSON Lines, three times

Counting takes the same records with librdkafka's `consume` and asks nothing of them but whether they are errors. Each
measure runs in a process of its own, in turn with the others; each archive's manifest has to name every record.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from anabranch.replay.archive.archiver import Archiver
from anabranch.topics.client import Cluster
from confluent_kafka import Consumer, TopicPartition
from main import broker, filled, progress
from outcome import peak_bytes
from records import PARTITIONS
from rich import box
from rich.console import Console
from rich.table import Table

_MIB = 1024 * 1024
_LEAST = 0.3
ENCODINGS = ("parquet", "jsonl")


@dataclass(frozen=True, slots=True)
class Archived:
    """Figures of one run; `seconds` from the opened consumer, or the start of `Archiver.archive`, to its end."""

    records: int
    seconds: float
    peak_bytes: int
    size_bytes: int = 0

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds


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
    names = ("counting", *ENCODINGS)
    runs: dict[str, list[Archived]] = {name: [] for name in names}
    try:
        with broker(bootstrap_server) as (cluster, _), filled(cluster, "archive", records) as source:
            for _turn in range(repeat):
                for name in names:
                    run = _measure(cluster, name, source.topic, folder, records)
                    runs[name].append(run)
                    progress.print(f"{name:<10}{run.rate:>12,.0f} records/s {run.peak_bytes / _MIB:>6,.0f} MiB")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _show(runs)
    if out is not None:
        out.write_text(json.dumps({name: [asdict(run) for run in found] for name, found in runs.items()}, indent=1))


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
        run = Archived(report.records, seconds, peak_bytes(os.getpid()), size)
    (folder / f"{name}.json").write_text(json.dumps(asdict(run)))


def _count(cluster: Cluster, topic: str, records: int) -> Archived:
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
    return Archived(found, seconds, peak_bytes(os.getpid()))


def _measure(cluster: Cluster, name: str, topic: str, folder: Path, records: int) -> Archived:
    command = [sys.executable, __file__, "measure", name, cluster.bootstrap_servers, topic, str(records), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if ended.returncode:
        raise click.ClickException(f"{name}: {ended.stderr[-2_000:]}")
    shutil.rmtree(folder / name, ignore_errors=True)
    run = Archived(**json.loads((folder / f"{name}.json").read_text()))
    if run.records != records:
        raise click.ClickException(f"{name}: {run.records:,} records instead of {records:,}")
    return run


def _show(runs: dict[str, list[Archived]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, title="a topic into files, exactly once")
    for column in ("", "records/s", "min-max", "of counting", "peak MiB", "bytes a record"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    rates = {name: statistics.median(run.rate for run in found) for name, found in runs.items()}
    for name, found in runs.items():
        spread = f"{min(run.rate for run in found):,.0f}-{max(run.rate for run in found):,.0f}"
        peak = max(run.peak_bytes for run in found) / _MIB
        size = f"{found[0].size_bytes / found[0].records:.1f}" if found[0].size_bytes else ""
        ratio = f"{rates[name] / rates['counting']:.2f}"
        table.add_row(name, f"{rates[name]:,.0f}", spread, ratio, f"{peak:,.0f}", size)
    Console(width=max(Console().width, 100)).print(table)
    for name in ENCODINGS:
        ratio = rates[name] / rates["counting"]
        click.echo(f"{'✓' if ratio >= _LEAST else '✗'} archive as {name}, at least {_LEAST} of counting: {ratio:.2f}")


if __name__ == "__main__":
    main()
