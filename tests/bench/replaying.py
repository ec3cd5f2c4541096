"""Bench of replays: from a file into a topic, exactly once, compared with a plain transactional produce loop.

    python tests/bench/replaying.py                      1,000,000 records in each format, three times
    python tests/bench/replaying.py --large 2            and the peak memory of replaying 2 GB as JSON Lines, and the
                                                         same records in the other formats

The bare loop has the same records (key, value, time) as objects in memory before its clock starts, and does nothing but
`produce` and commit. Each measure runs in a process of its own, in turn with the others; each topic is counted after.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import click
from anabranch.replay.player import Player
from anabranch.replay.record_counts import count_records
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.format import Format
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from main import broker, progress
from records import PARTITIONS, orders
from run_outcome import peak_bytes
from timed_runs import Moved, in_process, in_turn, median_rate, show, write_runs

_IN_TRANSACTION = 50_000
_IN_LARGE = 100_000
_MIB = 1024 * 1024
FORMATS = ("jsonl", "csv", "parquet", "avro")


@click.group(invoke_without_command=True)
@click.option("--records", default=1_000_000, show_default=True)
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1))
@click.option("--only", multiple=True, type=click.Choice(FORMATS), help="Leave the other formats out.")
@click.option("--large", type=float, default=0.0, metavar="GB", help="Also replay a file of so many GB, and its like.")
@click.option("--bootstrap-server", help="Use this cluster instead of a broker of our own.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures to FILE.")
@click.pass_context
def main(
    context: click.Context,
    records: int,
    repeat: int,
    only: tuple[str, ...],
    large: float,
    bootstrap_server: str | None,
    out: Path | None,
) -> None:
    """Measure how fast files become topics."""
    if context.invoked_subcommand:
        return
    folder = Path(tempfile.mkdtemp(prefix="anabranch-bench-"))
    logging.basicConfig(filename=folder / "bench.log")
    measures = ["bare", *(only or FORMATS)]
    files = {name: folder / f"orders.{'jsonl' if name == 'bare' else name}" for name in measures}
    try:
        _write(files["bare"], records)
        for name in measures[1:]:
            _convert(files["bare"], files[name])
        with broker(bootstrap_server) as (cluster, _):

            def measured(name: str) -> Moved:
                return _measure(cluster, name, files[name], folder, records)

            measured("bare")  # makes the broker's internal topics
            runs = in_turn(measures, repeat, measured)
            if large:
                for name in measures[1:]:
                    run = _large(cluster, folder, large, name)
                    runs[f"large {name}"] = [run]
                    progress.print(f"{name}, large: {run.records:,} records, {run.peak_bytes / _MIB:,.0f} MiB")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _show(runs)
    write_runs(runs, out)


@main.command(hidden=True)
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("servers")
@click.argument("topic")
@click.argument("out", type=click.Path(path_type=Path))
def measure(name: str, file: Path, servers: str, topic: str, out: Path) -> None:
    """One run, in this process."""
    logging.basicConfig()
    cluster = Cluster.named(servers)
    if name == "bare":
        run = _bare(cluster, file, topic)
    else:
        began_s = time.monotonic()
        report = Player(cluster, find_history([str(file)], Format(key="user", time="at")), topic).play()
        run = Moved(report.sent, time.monotonic() - began_s, peak_bytes(os.getpid()))
    run.write(out)


def _bare(cluster: Cluster, file: Path, topic: str) -> Moved:
    items: list[tuple[str, bytes, int]] = []
    for line in file.read_bytes().splitlines():
        order = json.loads(line)
        items.append((order["user"], line, order["at"]))
    producer = cluster.producer(transactional_id=topic)
    producer.init_transactions(30)
    began_s = time.monotonic()
    for first in range(0, len(items), _IN_TRANSACTION):
        producer.begin_transaction()
        for key, value, at in items[first : first + _IN_TRANSACTION]:
            while True:
                try:
                    producer.produce(topic, value, key, timestamp=at)
                    break
                except BufferError:
                    producer.poll(0.05)
        producer.commit_transaction(30)
    return Moved(len(items), time.monotonic() - began_s, peak_bytes(os.getpid()))


def _measure(cluster: Cluster, name: str, file: Path, folder: Path, records: int) -> Moved:
    topic, out = f"bench-replay-{uuid.uuid4().hex[:8]}", folder / f"{name}.json"
    Admin(cluster).create([TopicSpec(topic, PARTITIONS)])
    try:
        run = in_process(name, out, __file__, "measure", name, file, cluster.bootstrap_servers, topic, out)
        if (found := count_records(cluster, topic, PARTITIONS)) != records:
            raise click.ClickException(f"{name}: {found:,} records in the topic instead of {records:,}")
    finally:
        Admin(cluster).delete([topic])
    return run


def _large(cluster: Cluster, folder: Path, gigabytes: float, name: str) -> Moved:
    """The same records over and over, as many as make a file of JSON Lines so large."""
    few, path = folder / "few.jsonl", folder / f"large.{name}"
    _write(few, _IN_LARGE)
    times = max(1, round(gigabytes * 1e9 / few.stat().st_size))
    _convert(few, path)
    if name == "parquet":
        _repeat_parquet(path, times)
    else:
        _repeat(path, times, name)
    try:
        return _measure(cluster, name, path, folder, _IN_LARGE * times)
    finally:
        path.unlink()


def _repeat(path: Path, times: int, name: str) -> None:
    data = path.read_bytes()
    # An Avro file ends with the mark that stands behind its header and each block; CSV has a line of names.
    head = {"jsonl": 0, "csv": data.index(b"\n") + 1, "avro": data.index(data[-16:]) + 16}[name]
    with path.open("ab") as file:
        for _ in range(times - 1):
            file.write(data[head:])


def _repeat_parquet(path: Path, times: int) -> None:
    from pyarrow import parquet

    table = parquet.read_table(path)
    with parquet.ParquetWriter(path, table.schema) as writer:
        for _ in range(times):
            writer.write_table(table)


def _lines(count: int) -> Iterator[bytes]:
    for user, amount, at in orders(count):
        yield b'{"user":"%b","amount":%d,"at":%d}\n' % (user.encode(), amount, at)


def _write(path: Path, records: int) -> None:
    with path.open("wb") as file:
        file.writelines(_lines(records))


def _convert(path: Path, into: Path) -> None:
    import polars

    if path == into:
        return
    if into.suffix == ".jsonl":
        shutil.copyfile(path, into)
        return
    frame = polars.read_ndjson(path)
    if into.suffix == ".csv":
        frame.write_csv(into)
    elif into.suffix == ".parquet":
        frame.write_parquet(into)
    elif into.suffix == ".avro":
        frame.write_avro(into, compression="deflate")


def _show(runs: dict[str, list[Moved]]) -> None:
    show("history into a topic, exactly once", "bare", "of the bare loop", runs)
    for name in FORMATS:
        if name in runs:
            ratio = median_rate(runs[name]) / median_rate(runs["bare"])
            click.echo(
                f"{'✓' if ratio >= 0.5 else '✗'} {name}, exactly-once, at least 0.5 of the bare loop: {ratio:.2f}"
            )
        if (large := f"large {name}") in runs:
            peak = runs[large][0].peak_bytes / 1e6
            click.echo(f"{'✓' if peak < 300 else '✗'} {large} file in less than 300 MB of memory: {peak:,.0f} MB")


if __name__ == "__main__":
    main()
