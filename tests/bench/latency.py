"""End-to-end latency: from `produce` until a read_committed reader has what an exactly-once agent made of the record.

    python tests/bench/latency.py --bootstrap-server localhost:9092
    python tests/bench/latency.py --bootstrap-server localhost:9092 --bare

Records carry the time they were produced at; one machine, one clock. The worker, and who produces and reads, are two
processes. The first half minute is not counted: Java compiles then what its broker does much, on the cores that are
measured. The minute after it is, and each moment of it at which records came later than the goal is told.

With `--bare`, a loop of librdkafka's calls copies the records instead of the worker, in transactions of the same kind
that follow each other after a pause. Nothing that commits records by transactions of librdkafka can be faster.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import click
from anabranch.agents.runtime import runtime_of
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.producer import TransactionalProducer
from confluent_kafka import Consumer, TopicPartition
from report import Target

__all__ = ["measure"]

PARTITIONS = 4
GOALS_MS = {50: 15.0, 99: 40.0}
WARM_S = 30.0
MEASURED_S = 60.0
_STEP_S = 0.005
_PAUSE_S = 0.002
_STALL_MS = 100.0
# Late records that were sent this close to each other waited for the same thing.
_APART_S = 0.1
_SHOWN = 10

Late = tuple[float, float]
"""Of a record: when it was sent, in seconds from the first one that counts, and how many ms it took."""


def work(servers: str, topic: str, data: str) -> None:
    """The worker: an agent that passes records on."""
    from anabranch import App
    from anabranch.agents.worker import run_worker

    app = App(topic, datadir=data, web_enabled=False)
    runtime_of(app).cluster = Cluster(servers)
    out = app.topic(f"{topic}-out", value_type=bytes)

    @app.agent(app.topic(topic, value_type=bytes))
    async def passes(stream):
        async for value in stream:
            await out.send(value=value)

    run_worker(app, on_ready=lambda _: print("ready", flush=True))


def copy(servers: str, topic: str, pause_s: float) -> None:
    """Copy records with librdkafka alone, in transactions that begin so long after the end of the one before."""
    cluster, ended = Cluster(servers), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    consumer = cluster.consumer(
        group_id=topic, auto_offset_reset="earliest", fetch_queue_backoff_ms=2, fetch_wait_max_ms=100
    )
    consumer.subscribe([topic])
    producer = TransactionalProducer(cluster, topic)
    producer.open()
    while not consumer.assignment():
        consumer.consume(1, 0.05)
    print("ready", flush=True)
    waiting: list[Any] = []
    committed_s, positions = 0.0, dict[int, int]()
    while not ended.is_set():
        waiting += consumer.consume(20_000, 0.001)
        if not waiting or time.monotonic() - committed_s < pause_s:
            continue
        producer.begin()
        for message in waiting:
            producer.produce(f"{topic}-out", message.value())
            positions[message.partition()] = message.offset() + 1
        offsets = [TopicPartition(topic, partition, offset) for partition, offset in positions.items()]
        producer.send_offsets(offsets, consumer.consumer_group_metadata())
        producer.commit()
        committed_s, waiting = time.monotonic(), []
    consumer.close()


def measure(
    servers: str,
    *,
    rate: int = 10_000,
    warm_s: float = WARM_S,
    seconds: float = MEASURED_S,
    bare_s: float | None = None,
) -> list[Late]:
    """Each record that counts, in order of arrival, at so many a second.

    Args:
        bare_s: the pause of the bare loop, which is measured instead of a worker; None for a worker.
    """
    cluster, topic = Cluster(servers), f"bench-latency-{uuid.uuid4().hex[:8]}"
    admin = Admin(cluster)
    admin.create([TopicSpec(topic, PARTITIONS), TopicSpec(f"{topic}-out", PARTITIONS)])
    with tempfile.TemporaryDirectory(prefix="anabranch-latency-") as data:
        command = [sys.executable, __file__, "--bootstrap-server", servers, "--worker", topic, "--data", data]
        command += [] if bare_s is None else ["--bare", "--pause", str(bare_s)]
        with (Path(data) / "log").open("wb") as log:
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline(), "the worker has not come up"
            return _latencies(cluster, topic, rate, warm_s, seconds)
        finally:
            worker.terminate()
            worker.wait(60)
            if worker.stdout is not None:
                worker.stdout.close()
            admin.delete([topic, f"{topic}-out"])


def _latencies(cluster: Cluster, topic: str, rate: int, warm_s: float, measured_s: float) -> list[Late]:
    seconds = warm_s + measured_s
    reader = Consumer(cluster.config(group_id=f"{topic}-reader", enable_auto_commit=False, fetch_queue_backoff_ms=2))
    reader.assign([TopicPartition(f"{topic}-out", p, 0) for p in range(PARTITIONS)])
    sending = threading.Thread(target=_produce, args=(cluster, topic, rate, seconds))
    began_ns = time.time_ns()
    sending.start()
    found: list[Late] = []
    read, expected, deadline = 0, int(rate * seconds), time.monotonic() + seconds + 60
    while read < expected and time.monotonic() < deadline:
        for message in reader.consume(1_000, 0.001):
            value = message.value()
            if message.error() is not None or value is None:
                continue
            read += 1
            sent_ns = int(value)
            at_s = (sent_ns - began_ns) / 1e9 - warm_s
            if at_s > 0:
                found.append((at_s, (time.time_ns() - sent_ns) / 1e6))
    sending.join()
    reader.close()
    if read != expected:
        raise RuntimeError(f"{read:,} of {expected:,} records came through")
    return found


def _produce(cluster: Cluster, topic: str, rate: int, seconds: float) -> None:
    producer = cluster.producer(linger_ms=1)
    began_s, sent = time.monotonic(), 0
    while sent < int(rate * seconds):
        due = min(int(rate * (time.monotonic() - began_s)), int(rate * seconds))
        for _ in range(due - sent):
            with contextlib.suppress(BufferError):
                producer.produce(topic, b"%d" % time.time_ns(), partition=sent % PARTITIONS)
                sent += 1
        producer.poll(0)
        time.sleep(_STEP_S)  # until some are due; without it, this loop takes a processor from the worker
    producer.flush(30)


def lines(found: list[Late]) -> list[str]:
    """What is said of it."""
    ordered = sorted(ms for _, ms in found)
    at = {p: ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))] for p in (50, 99, 99.9)}
    said = [
        Target(
            f"latency p{p} at 10,000 records/s, exactly-once, under {goal:.0f} ms", at[p], " ms", at[p] < goal
        ).line()
        for p, goal in GOALS_MS.items()
    ]
    stalls = _stalls(found)
    said.append(
        f"  p99.9 {at[99.9]:.0f} ms, the slowest {ordered[-1]:.0f} ms; records took over {_STALL_MS:.0f} ms at "
        f"{len(stalls)} moments"
    )
    said += [f"    {at_s:.1f} s: {count:,} records, up to {worst:.0f} ms" for at_s, count, worst in stalls[:_SHOWN]]
    return said


def _stalls(found: list[Late]) -> list[tuple[float, int, float]]:
    """Of each moment at which records were late: when, how many, how late at worst."""
    stalls: list[tuple[float, int, float]] = []
    last_s = float("-inf")
    for at_s, ms in sorted(late for late in found if late[1] > _STALL_MS):
        if at_s - last_s > _APART_S:
            stalls.append((at_s, 1, ms))
        else:
            began_s, count, worst = stalls[-1]
            stalls[-1] = (began_s, count + 1, max(worst, ms))
        last_s = at_s
    return stalls


@click.command()
@click.option("--bootstrap-server", required=True)
@click.option("--warm", default=WARM_S, show_default=True, help="Seconds that do not count.")
@click.option("--seconds", default=MEASURED_S, show_default=True, help="Seconds that do.")
@click.option("--bare", is_flag=True, help="Measure a loop of librdkafka's calls instead of a worker.")
@click.option(
    "--pause", default=_PAUSE_S, show_default=True, help="Of the bare loop between two transactions, in seconds."
)
@click.option("--worker", hidden=True)
@click.option("--data", hidden=True)
def main(
    bootstrap_server: str, warm: float, seconds: float, bare: bool, pause: float, worker: str | None, data: str | None
) -> None:
    """Measure the latency of an exactly-once agent at 10,000 records a second."""
    if worker is not None and data is not None:
        copy(bootstrap_server, worker, pause) if bare else work(bootstrap_server, worker, data)
        return
    found = measure(bootstrap_server, warm_s=warm, seconds=seconds, bare_s=pause if bare else None)
    for line in lines(found):
        click.echo(line)


if __name__ == "__main__":
    main()
