"""Bench of interruptions: how long a group commits nothing when workers are killed, join and leave.

    python tests/bench/recovering.py                     about three minutes
    python tests/bench/recovering.py --keys 100000 --only restart

Orders keep coming, workers sum them up by user and pass their numbers on, and a read_committed reader notes when:

- restart: a worker whose table has a million keys is killed with -9 and started again at once; seconds from the start
  of the process to the first result of an order that came after the kill. Table in RocksDB; in memory a quarter of it.
- take-over: one of two workers is killed with -9 and does not come back; seconds to the first result of the last of its
  partitions, with and without a warm copy (`standby_replicas=1`). The session timeout is part of it, and named.
- rebalance: a second worker joins and leaves in order; the longest time without a result of anybody, and of some
  partition, by protocol.

Each has its results counted (each order once) and its table compared with the sums of what was sent.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from anabranch.topics.admin import Admin
from anabranch.topics.cluster import Cluster
from anabranch.topics.consumer_groups import ConsumerGroups
from main import broker, progress
from records import read_totals
from report import Target
from traffic import Traffic

RATE = 5_000
SESSION_S = 6.0
_HERE = Path(__file__).parent
_SETTLE_S = 2.0
_AFTER_S = 3.0
_COPIES = "keeping standby copies of tasks"


class WorkerGroup:
    """Workers of one app, each with a data folder of its own."""

    def __init__(self, cluster: Cluster, topic: str, folder: Path, store: str, protocol: str, copies: int) -> None:
        self.name = f"{topic}-app"
        self._cluster = cluster
        self._arguments = ["--bootstrap-server", cluster.bootstrap_servers, "--name", self.name, "--topic", topic]
        self._arguments += ["--store", store, "--protocol", protocol, "--copies", str(copies)]
        self._arguments += ["--session-ms", str(round(SESSION_S * 1000))]
        self._folder, self._running = folder, dict[str, subprocess.Popen[bytes]]()

    def start(self, worker: str) -> float:
        """Start a worker; when its process began, on the monotonic clock."""
        command = [sys.executable, str(_HERE / "recovery_worker.py"), *self._arguments, "--data"]
        command.append(str(self._folder / worker))
        with (self._folder / f"{worker}.log").open("ab") as log:
            began_s = time.monotonic()
            self._running[worker] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        return began_s

    def ready(self, worker: str) -> None:
        """Wait until it is."""
        stdout = self._running[worker].stdout
        assert stdout is not None
        if not stdout.readline():
            raise RuntimeError(f"worker {worker} has ended: {(self._folder / f'{worker}.log').read_text()[-2000:]}")

    def kill(self, worker: str) -> None:
        """As `kill -9`."""
        self._running[worker].kill()
        self._running.pop(worker).wait()

    def leave(self, worker: str) -> None:
        """As SIGTERM."""
        self._running[worker].terminate()
        self._running.pop(worker).wait(60)

    def committed(self, orders: int) -> bool:
        """Whether that many records are."""
        return sum(offset for offset, _ in ConsumerGroups(self._cluster).offsets(self.name).values()) >= orders

    def close(self) -> None:
        """End all."""
        for worker in list(self._running):
            self.leave(worker)


@contextmanager
def under_way(
    cluster: Cluster, folder: Path, keys: int, *, store: str = "memory://", protocol: str = "classic", copies: int = 0
) -> Iterator[tuple[Traffic, WorkerGroup]]:
    """A worker `a` whose table has that many keys, and orders that keep coming; audited afterwards."""
    topic = f"bench-recovering-{uuid.uuid4().hex[:8]}"
    traffic, home = Traffic(cluster, topic, keys), folder / topic
    home.mkdir()
    group = WorkerGroup(cluster, topic, home, store, protocol, copies)
    try:
        traffic.fill()
        group.start("a")
        group.ready("a")
        until(lambda: group.committed(keys), "the table is filled")
        traffic.begin(RATE)
        try:
            traffic.first_after(0)
            yield traffic, group
        finally:
            traffic.end()
    finally:
        group.close()
    found = read_totals(cluster, f"{group.name}-totals-changelog", msgspec.json.decode)
    if found != dict(traffic.totals):
        raise RuntimeError(f"the table is wrong: {sum(found.values()):,} instead of {traffic.totals.total():,}")
    Admin(cluster).delete([topic, f"{topic}-out", f"{group.name}-totals-changelog"])


def until(condition: Callable[[], bool], what: str, patience_s: float = 60.0) -> None:
    """Wait for it."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {patience_s:.0f} s: {what}")
        time.sleep(0.05)  # between two looks


def restart(cluster: Cluster, folder: Path, keys: int) -> Iterator[str]:
    """A worker is killed and started again."""
    for store, count in (("rocksdb://", keys), ("memory://", keys // 4)):  # what is in memory has to be read again
        with under_way(cluster, folder, count, store=store) as (traffic, group):
            time.sleep(_SETTLE_S)  # steady work first, with results of all partitions
            group.kill("a")
            sent = traffic.sent
            began_s = group.start("a")
            took_s = traffic.first_after(sent) - began_s
            group.ready("a")
        text = f"killed with -9 and started again, {count:,} keys in {store[:-3]}: first new result within 3 s"
        yield Target(text, took_s, " s", took_s < 3).line()


def take_over(cluster: Cluster, folder: Path, keys: int) -> Iterator[str]:
    """A worker is killed, the other one takes its partitions."""
    for copies in (0, 1):
        with under_way(cluster, folder, keys, copies=copies) as (traffic, group):
            group.start("b")
            group.ready("b")
            log = folder / traffic.topic / "a.log"
            until(lambda log=log, least=copies: log.read_text().count(_COPIES) >= least, "copies are kept")
            time.sleep(_SETTLE_S)  # the rebalance is over, and copies have read what is in the changelog
            group.kill("b")
            sent, killed_s = traffic.sent, time.monotonic()
            rest_s = traffic.first_after(sent, set(traffic.seen)) - killed_s - SESSION_S
        copies_text = "with a warm copy" if copies else "without copies"
        yield f"  {keys // 2:,} keys taken over {copies_text}: {SESSION_S:.0f} s session timeout + {rest_s:.2f} s"


def rebalance(cluster: Cluster, folder: Path, keys: int) -> Iterator[str]:
    """A worker joins, and leaves in order."""
    for protocol in ("classic", "consumer"):
        with under_way(cluster, folder, keys // 10, protocol=protocol) as (traffic, group):
            time.sleep(_SETTLE_S)  # steady work first: the pauses of a start are not those of a rebalance
            pauses: dict[str, tuple[float, float]] = {}
            for what in ("joins", "leaves"):
                began_s = time.monotonic()
                if what == "joins":
                    group.start("b")
                    group.ready("b")
                else:
                    group.leave("b")
                time.sleep(_AFTER_S)  # the time that is looked at: a rebalance goes on after who joins is ready
                pauses[what] = traffic.pauses_s(began_s, time.monotonic())
        for what, (of_all_s, of_one_s) in pauses.items():
            text = f"a worker {what} under load, {protocol}: nobody commits for less than 1 s"
            yield f"{Target(text, of_all_s, ' s', of_all_s < 1).line()} (a partition: {of_one_s:.2f} s)"


MEASURES = {"restart": restart, "take-over": take_over, "rebalance": rebalance}


@click.command()
@click.option("--keys", default=1_000_000, show_default=True, help="In the table; a tenth of it in rebalances.")
@click.option("--only", multiple=True, type=click.Choice(list(MEASURES)), help="Leave the others out.")
@click.option("--bootstrap-server", help="Use this cluster instead of a broker of our own.")
def main(keys: int, only: tuple[str, ...], bootstrap_server: str | None) -> None:
    """Measure how long a group is silent when workers die, come and go."""
    print_measures(MEASURES, only, bootstrap_server, keys)


def print_measures(
    measures: Mapping[str, Callable[[Cluster, Path, int], Iterator[str]]],
    only: Collection[str],
    bootstrap_server: str | None,
    keys: int,
) -> None:
    """Print the lines of measures, each of which gets a cluster, a folder for logs and data, and the number of keys.

    Args:
        only: names of measures; empty for all.
        bootstrap_server: None for a broker of our own.
    """
    folder = Path(tempfile.mkdtemp(prefix="anabranch-bench-"))
    logging.basicConfig(filename=folder / "bench.log")  # what librdkafka says in this process
    with broker(bootstrap_server) as (cluster, _):
        for name, measure in measures.items():
            if not only or name in only:
                progress.print(name)
                for line in measure(cluster, folder, keys):
                    click.echo(line)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
