"""Bench of restores: how fast a worker has its tables back.

    python tests/bench/restoring.py                      1,000,000 keys, three times
    python tests/bench/restoring.py --keys 100000 --repeat 1

A worker fills a table, one key a record, and ends. Then, each in a process of its own and in turn:

- counting: librdkafka reads the table's changelog and only counts;
- memory, disk: a worker with an empty data folder restores the table, in memory or into RocksDB;
- restart: a worker starts again on its data folder, with RocksDB stores that are at the changelog's end.

A worker's table is looked at after each start: it must have all keys.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import click
from anabranch.agents.runtime import runtime_of
from anabranch.agents.worker import run_worker
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from librdkafka_count import count
from main import broker, progress
from records import PARTITIONS
from rich import box
from rich.console import Console
from rich.table import Table
from worker import shop, until_committed

_PATIENCE_S = 600


def fill(cluster: Cluster, topic: str, keys: int) -> None:
    """One record a key."""
    Admin(cluster).create([TopicSpec(topic, PARTITIONS)])
    producer = cluster.producer(linger_ms=50)
    for i in range(keys):
        user = f"user-{i}"
        while True:
            try:
                producer.produce(topic, b'{"user":"%b","amount":%d,"at":%d}' % (user.encode(), i % 97, i), user)
                break
            except BufferError:
                producer.poll(0.05)
    if producer.flush(60):
        raise RuntimeError(f"{topic}: could not be filled")


def start(servers: str, name: str, topic: str, keys: int, store: str, data: str, begun_at: float) -> dict[str, Any]:
    """Start a worker, see that its table is whole, stop it; seconds and counts."""
    app = shop(name, topic, "exactly_once", "record", data, store)
    runtime_of(app).cluster = Cluster.named(servers)
    facts: dict[str, Any] = {"worker_at": time.time()}
    watching: list[asyncio.Task[None]] = []

    async def watch() -> None:
        facts["ready_at"] = time.time()
        await until_committed(app, topic, keys)
        facts["keys"] = len(dict(app.tables["totals"].items()))
        facts["restored"] = runtime_of(app).status.restored_total
        runtime_of(app).stop_requested.set()

    run_worker(app, on_ready=lambda _: watching.append(asyncio.ensure_future(watch())))
    watching[0].result()
    return {
        "records": facts["restored"],
        "keys": facts["keys"],
        "seconds": facts["ready_at"] - facts["worker_at"],
        "from_start_s": facts["ready_at"] - begun_at,
    }


def child(folder: Path, *arguments: object) -> dict[str, Any]:
    """One measure in a process of its own."""
    log = folder / f"{uuid.uuid4().hex[:8]}.log"
    command = [sys.executable, __file__, "--child", json.dumps([*arguments, time.time()])]
    with log.open("wb") as logged:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=logged, cwd=Path(__file__).parent, timeout=_PATIENCE_S, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{arguments}: ended with {done.returncode}\n{log.read_text(errors='replace')[-2000:]}")
    return json.loads(done.stdout)


def measured(what: str, *rest: Any) -> dict[str, Any]:
    """What the child does."""
    if what == "start":
        return start(*rest)
    servers, topic, records, _ = rest
    outcome = count(servers, topic, records, f"count-{uuid.uuid4().hex[:8]}")
    return {"records": outcome.records, "seconds": outcome.seconds, "from_start_s": 0.0}


@click.command()
@click.option("--keys", default=1_000_000, show_default=True, help="How many.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1), help="Runs of each measure.")
@click.option("--bootstrap-server", help="Use this cluster instead of a broker of our own.")
@click.option("--child", "asked", hidden=True)
def main(keys: int, repeat: int, bootstrap_server: str | None, asked: str | None) -> None:
    """Measure how fast workers have their tables again."""
    if asked is not None:
        print(json.dumps(measured(*json.loads(asked))))
        return
    folder = Path(tempfile.mkdtemp(prefix="anabranch-bench-"))
    logging.basicConfig(filename=folder / "bench.log")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("counting", "memory", "disk", "restart")}
    with broker(bootstrap_server) as (cluster, _):
        servers, stem = cluster.bootstrap_servers, uuid.uuid4().hex[:8]
        topic, name = f"bench-restore-{stem}", f"bench-{stem}"
        fill(cluster, topic, keys)
        child(folder, "start", servers, name, topic, keys, "rocksdb://", str(folder / "kept"))
        changelog = f"{name}-totals-changelog"
        for turn in range(repeat):
            for what, rows in found.items():
                if what == "counting":
                    rows.append(child(folder, "count", servers, changelog, keys))
                    continue
                store = "memory://" if what == "memory" else "rocksdb://"
                data = folder / ("kept" if what == "restart" else f"{what}-{turn}")
                rows.append(child(folder, "start", servers, name, topic, keys, store, str(data)))
                if rows[-1]["keys"] != keys:
                    raise SystemExit(f"{what}: {rows[-1]['keys']:,} keys instead of {keys:,}")
            progress.print(f"turn {turn + 1} of {repeat}")
    shutil.rmtree(folder, ignore_errors=True)
    grid = Table("", "keys read", "seconds to ready", "keys/s", "x counting", "from process start", box=box.SIMPLE)
    best = statistics.median(row["records"] / row["seconds"] for row in found["counting"])
    for what, rows in found.items():
        read, seconds = rows[0]["records"], statistics.median(row["seconds"] for row in rows)
        start_s = statistics.median(row["from_start_s"] for row in rows)
        rate = read / seconds if read > keys / 2 else 0.0
        grid.add_row(
            what,
            f"{read:,}",
            f"{seconds:.2f}",
            f"{rate:,.0f}" if rate else "-",
            f"{rate / best:.2f}" if rate else "-",
            f"{start_s:.2f} s" if start_s else "-",
        )
    Console(width=120).print(grid)


if __name__ == "__main__":
    main()
