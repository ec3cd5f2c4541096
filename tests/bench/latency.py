"""End-to-end latency: from `produce` until a read_committed reader has what an exactly-once agent made of the record.

    python tests/bench/latency.py --bootstrap-server localhost:9092

Records carry the time they were produced at; one machine, one clock. The worker, and who produces and reads, are two
processes. The first ten seconds are not counted: Java compiles then what its broker does much, on the cores that are
measured.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import click
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.client import Cluster
from anabranch.topics.producer import plain_producer_config
from confluent_kafka import Consumer, Producer, TopicPartition
from report import Target

__all__ = ["measure"]

PARTITIONS = 4
GOALS_MS = {50: 30.0, 99: 100.0}
_WARM_S = 10.0
_STEP_S = 0.005


def work(servers: str, topic: str, data: str) -> None:
    """The worker: an agent that passes records on."""
    from anabranch import App
    from anabranch.agents.worker import run_worker

    app = App(topic, datadir=data, web_enabled=False)
    app.cluster = Cluster(servers)
    out = app.topic(f"{topic}-out", value_type=bytes)

    @app.agent(app.topic(topic, value_type=bytes))
    async def passes(stream):
        async for value in stream:
            await out.send(value=value)

    run_worker(app, on_ready=lambda _: print("ready", flush=True))


def measure(servers: str, *, rate: int = 10_000, seconds: float = 20.0) -> dict[int, float]:
    """Percentile -> milliseconds, at so many records a second."""
    cluster, topic = Cluster(servers), f"bench-latency-{uuid.uuid4().hex[:8]}"
    admin = Admin(cluster)
    admin.create([TopicSpec(topic, PARTITIONS), TopicSpec(f"{topic}-out", PARTITIONS)])
    with tempfile.TemporaryDirectory(prefix="anabranch-latency-") as data:
        command = [sys.executable, __file__, "--bootstrap-server", servers, "--worker", topic, "--data", data]
        with (Path(data) / "log").open("wb") as log:
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline(), "the worker has not come up"
            return _percentiles(_latencies_ms(cluster, topic, rate, seconds))
        finally:
            worker.terminate()
            worker.wait(60)
            if worker.stdout is not None:
                worker.stdout.close()
            admin.delete([topic, f"{topic}-out"])


def _latencies_ms(cluster: Cluster, topic: str, rate: int, seconds: float) -> list[float]:
    reader = Consumer(cluster.config(group_id=f"{topic}-reader", enable_auto_commit=False, fetch_queue_backoff_ms=2))
    reader.assign([TopicPartition(f"{topic}-out", p, 0) for p in range(PARTITIONS)])
    sending = threading.Thread(target=_produce, args=(cluster, topic, rate, seconds))
    began_ns = time.time_ns()
    sending.start()
    found: list[float] = []
    read, expected, deadline = 0, int(rate * seconds), time.monotonic() + seconds + 60
    while read < expected and time.monotonic() < deadline:
        for message in reader.consume(1_000, 0.001):
            value = message.value()
            if message.error() is not None or value is None:
                continue
            read += 1
            sent_ns = int(value)
            if sent_ns - began_ns > _WARM_S * 1e9:
                found.append((time.time_ns() - sent_ns) / 1e6)
    sending.join()
    reader.close()
    if read != expected:
        raise RuntimeError(f"{read:,} of {expected:,} records came through")
    return found


def _produce(cluster: Cluster, topic: str, rate: int, seconds: float) -> None:
    producer = Producer(plain_producer_config(cluster, linger_ms=1))
    began_s, sent = time.monotonic(), 0
    while sent < int(rate * seconds):
        due = min(int(rate * (time.monotonic() - began_s)), int(rate * seconds))
        for _ in range(due - sent):
            with contextlib.suppress(BufferError):
                producer.produce(topic, b"%d" % time.time_ns(), partition=sent % PARTITIONS)
                sent += 1
        producer.poll(0)
        time.sleep(_STEP_S)
    producer.flush(30)


def _percentiles(latencies_ms: list[float]) -> dict[int, float]:
    ordered = sorted(latencies_ms)
    return {p: ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in GOALS_MS}


def lines(found: dict[int, float]) -> list[str]:
    """What is said of it."""
    return [
        Target(f"latency p{p} at 10,000 records/s, exactly-once, under {goal:.0f} ms", ms, " ms", ms < goal).line()
        for p, ms in found.items()
        for goal in (GOALS_MS[p],)
    ]


@click.command()
@click.option("--bootstrap-server", required=True)
@click.option("--seconds", default=20.0, show_default=True)
@click.option("--worker", hidden=True)
@click.option("--data", hidden=True)
def main(bootstrap_server: str, seconds: float, worker: str | None, data: str | None) -> None:
    """Measure the latency of an exactly-once agent at 10,000 records a second."""
    if worker is not None and data is not None:
        work(bootstrap_server, worker, data)
        return
    for line in lines(measure(bootstrap_server, seconds=seconds)):
        click.echo(line)


if __name__ == "__main__":
    main()
