"""Bench of windows that close: what it costs the others in the worker, and how long after its end a window is there.

    python tests/bench/closing.py                              two minutes
    python tests/bench/closing.py --only storm --keys 200000

- storm: a million keys have a window of the same minute, and one record in each partition closes them all. Meanwhile an
  agent of the same worker passes on 1,000 orders a second. Printed are the longest time in which none of its orders
  is committed, of all its partitions and of one, and how long the windows take.
- storm-key-by: the same behind `key_by`.
- boundary: windows of a second behind `key_by`, at 1,000 records a second whose times are those at which they are sent.
  Printed are percentiles of the time from the end of a window until a read_committed reader has its final value.

Each window has to close once, with the right value.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
from anabranch.agents.runtime import runtime_of
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from confluent_kafka import Consumer, TopicPartition
from records import PARTITIONS, START_MS, WINDOW_MS
from recovering import print_measures, until
from report import Target
from traffic import Traffic

RATE = 1_000
_BEGIN_MS = START_MS - START_MS % WINDOW_MS
_USUAL_S = 3.0
_STEP_S = 0.002
_WARM_S = 10.0
_MEASURED_S = 40.0
_USERS = 100
_PATIENCE_S = 120.0
_GOALS_MS = {50: 200.0, 99: 500.0}


class Final(NamedTuple):
    """A closed window, and the wall-clock time at which it was read, in seconds."""

    user: str
    end_ms: int
    count: int
    read_s: float


def work(servers: str, name: str, data: str, window: str, by_key: bool) -> None:
    """The worker: windows of `<name>`, and an agent that passes the numbers of orders of `<name>-orders` on."""
    from anabranch import App, Count, Tumbling
    from anabranch.agents.worker import run_worker

    app = App(f"{name}-app", datadir=data, web_enabled=False, topic_partitions=PARTITIONS)
    runtime_of(app).cluster = Cluster.named(servers)
    clicks = app.topic(name, grace=0, max_jump=None, idle_after=None, partitions=PARTITIONS)
    keyed = clicks.key_by("user") if by_key else clicks.flow()
    windows = keyed.window(Tumbling(window)).aggregate("windows", n=Count())
    windows.final().to(app.topic(f"{name}-finals", partitions=PARTITIONS))
    out = app.topic(f"{name}-orders-out", value_type=bytes, partitions=PARTITIONS)

    @app.agent(app.topic(f"{name}-orders", partitions=PARTITIONS))
    async def passes(stream):
        async for event in stream.events():
            await out.send(value=b"%d" % event.value["at"], partition=event.message.partition)

    run_worker(app, on_ready=lambda _: print("ready", flush=True))


@contextmanager
def worker(cluster: Cluster, folder: Path, name: str, window: str, by_key: bool) -> Iterator[None]:
    """A worker that is ready; ended afterwards."""
    command = [sys.executable, __file__, "--bootstrap-server", cluster.bootstrap_servers, "--worker", name]
    command += ["--data", str(folder / name), "--window", window, *(["--by-key"] if by_key else [])]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    try:
        if not process.stdout.readline():
            raise RuntimeError(f"the worker has ended: {(folder / f'{name}.log').read_text()[-2000:]}")
        yield
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


class Finals:
    """Reads closed windows in a thread, until it is closed."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self.found: list[Final] = []
        self._reader: Any = Consumer(
            cluster.config(group_id=f"{topic}-reader", enable_auto_commit=False, fetch_queue_backoff_ms=2)
        )
        self._reader.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self._reader.close()

    def _read(self) -> None:
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        while not self._ending.is_set():
            messages: list[Any] = self._reader.consume(5_000, 0.002)
            now_s = time.time()
            for message in messages:
                if message.error() is None:
                    window = decode(message.value())
                    self.found.append(Final(window["key"], window["end"], window["n"], now_s))


class Clicks:
    """Produces the records that windows are made of.

    Attributes:
        counts: (user, end of the window in milliseconds) -> number of records.
    """

    def __init__(self, cluster: Cluster, topic: str, window_ms: int) -> None:
        self._producer: Any = cluster.producer(linger_ms=2)
        self._topic, self._window_ms = topic, window_ms
        self.counts: Counter[tuple[str, int]] = Counter()
        self.sent = 0

    def send(self, user: str, at_ms: int, partition: int = -1) -> None:
        while True:
            try:
                value = b'{"user":"%b"}' % user.encode()
                self._producer.produce(self._topic, value, user, partition=partition, timestamp=at_ms)
                break
            except BufferError:
                self._producer.poll(0.05)
        self.counts[user, at_ms - at_ms % self._window_ms + self._window_ms] += 1
        self.sent += 1
        self._producer.poll(0)

    def flush(self) -> None:
        if self._producer.flush(60):
            raise RuntimeError("records are undelivered after 60 s")


def audit(finals: list[Final], counts: Counter[tuple[str, int]]) -> None:
    """Compare closed windows with what was sent.

    Raises:
        RuntimeError: a window closed twice, or with another value. Of `counts` some may be open.
    """
    found = Counter((final.user, final.end_ms) for final in finals)
    wrong = [final for final in finals if counts[final.user, final.end_ms] != final.count]
    if wrong or found.total() != len(found):
        raise RuntimeError(f"windows are wrong: {wrong[:3]}, {found.total() - len(found)} closed twice")


def storm(cluster: Cluster, folder: Path, keys: int, *, by_key: bool) -> Iterator[str]:
    """All windows of a minute close at once."""
    name = f"bench-closing-{uuid.uuid4().hex[:8]}"
    admin = Admin(cluster)
    admin.create([TopicSpec(topic, PARTITIONS) for topic in (name, f"{name}-finals")])
    clicks = Clicks(cluster, name, WINDOW_MS)
    for number in range(keys):
        clicks.send(f"user-{number}", _BEGIN_MS)
    clicks.flush()
    traffic = Traffic(cluster, f"{name}-orders", 1_000)
    reader = Finals(cluster, f"{name}-finals")
    try:
        with worker(cluster, folder, name, "1m", by_key):
            until(lambda: _written(admin, name) >= keys, "all clicks are in windows", _PATIENCE_S)
            traffic.begin(RATE)
            traffic.first_after(0)
            time.sleep(_USUAL_S)  # the time that is looked at: the pauses without a storm, to compare with
            usual = traffic.pauses_s(time.monotonic() - _USUAL_S, time.monotonic())
            began_s, began_at = time.monotonic(), time.time()
            for partition in range(PARTITIONS):
                clicks.send("last", _BEGIN_MS + WINDOW_MS, partition)
            clicks.flush()
            until(lambda: len(reader.found) >= keys, "all windows have closed", _PATIENCE_S)
            of_all_s, of_one_s = traffic.pauses_s(began_s, time.monotonic())
            traffic.end()
    finally:
        reader.close()
    audit(reader.found, clicks.counts)
    if len(reader.found) != keys:
        raise RuntimeError(f"{len(reader.found):,} windows of {keys:,} have closed")
    where = "behind key_by" if by_key else "in place"
    text = f"{keys:,} windows close at once, {where}: another agent commits at least once a second"
    yield Target(text, of_one_s, " s", of_one_s < 1).line()
    yield (
        f"  the longest time without a commit of its partitions together {of_all_s:.2f} s, of one {of_one_s:.2f} s "
        f"(before: {usual[0]:.2f} s, {usual[1]:.2f} s); the first window was there after "
        f"{reader.found[0].read_s - began_at:.2f} s, the last after {reader.found[-1].read_s - began_at:.1f} s"
    )
    admin.delete([topic for topic in admin.partitions() if topic.startswith(name)])


def _written(admin: Admin, name: str) -> int:
    """Return how many windows the table holds, by its changelog: each is written once, because it has one record.

    Offsets count transaction markers as well: a few windows may be missing.
    """
    changelog = f"{name}-app-windows-changelog"
    partitions = range(admin.existing([changelog]).get(changelog, 0))
    return sum(admin.ends([TopicPartition(changelog, number) for number in partitions], committed=True).values())


def boundary(cluster: Cluster, folder: Path, _keys: int) -> Iterator[str]:
    """A window closes each second."""
    name = f"bench-closing-{uuid.uuid4().hex[:8]}"
    admin = Admin(cluster)
    admin.create([TopicSpec(topic, PARTITIONS) for topic in (name, f"{name}-finals", f"{name}-orders")])
    clicks, reader = Clicks(cluster, name, 1_000), Finals(cluster, f"{name}-finals")
    try:
        with worker(cluster, folder, name, "1s", by_key=True):
            began_s = time.time()
            while (now_s := time.time()) < began_s + _WARM_S + _MEASURED_S:
                for _ in range(int(RATE * (now_s - began_s)) - clicks.sent):
                    clicks.send(f"user-{clicks.sent % _USERS}", int(1000 * time.time()), clicks.sent % PARTITIONS)
                time.sleep(_STEP_S)  # until some are due; without it, this loop takes a processor from the worker
            clicks.flush()
            ends = {end for _, end in clicks.counts}
            closed = sum(end < max(ends) for _, end in clicks.counts)
            until(lambda: len(reader.found) >= closed, "all windows have closed")
    finally:
        reader.close()
    audit(reader.found, clicks.counts)
    took = sorted(
        1000 * final.read_s - final.end_ms for final in reader.found if final.end_ms > 1000 * (began_s + _WARM_S)
    )
    for percent, goal in _GOALS_MS.items():
        value = took[min(len(took) - 1, len(took) * percent // 100)]
        text = f"final value after the end of its window, behind key_by: p{percent} within {goal:.0f} ms"
        yield Target(text, value, " ms", value <= goal).line()
    yield f"  the slowest of {len(took):,} after {took[-1]:.0f} ms"
    admin.delete([topic for topic in admin.partitions() if topic.startswith(name)])


MEASURES = {
    "storm": partial(storm, by_key=False),
    "storm-key-by": partial(storm, by_key=True),
    "boundary": boundary,
}


@click.command()
@click.option("--keys", default=1_000_000, show_default=True, help="How many windows close at once.")
@click.option("--only", multiple=True, type=click.Choice(list(MEASURES)), help="Leave the others out.")
@click.option("--bootstrap-server", help="Use this cluster instead of a broker of our own.")
@click.option("--worker", "name", hidden=True)
@click.option("--data", hidden=True)
@click.option("--window", hidden=True)
@click.option("--by-key", is_flag=True, hidden=True)
def main(
    keys: int,
    only: tuple[str, ...],
    bootstrap_server: str | None,
    name: str | None,
    data: str | None,
    window: str | None,
    by_key: bool,
) -> None:
    """Measure windows that close."""
    if name is not None:
        assert bootstrap_server is not None
        assert data is not None
        assert window is not None
        work(bootstrap_server, name, data, window, by_key)
        return
    print_measures(MEASURES, only, bootstrap_server, keys)


if __name__ == "__main__":
    main()
