"""The time of a worker by thread and by step of its loop.

    python tests/bench/step_times.py                                            3,000,000 records, three runs
    python tests/bench/step_times.py --records 1000000 --store rocksdb://

The worker is that of `make bench` (by record, exactly-once, commits every 100 ms at the latest), with a clock around
each step of its loop: some dozens of readings an epoch, which cost nothing beside it. What is shown is the run with the
least time. CPU seconds of threads are what the system says, from the first record until all are committed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import click
from anabranch.topics.admin import Admin
from main import broker, filled, progress
from measure import BenchError, Source
from rich import box
from rich.console import Console
from rich.table import Table

_TICKS = os.sysconf("SC_CLK_TCK")

# The end of the names of steps that a thread takes while agents fill the next epoch.
_BESIDE = " (beside)"

# Where a step is: (module, class or None, function), and what it is called. Inner steps are taken out of outer ones.
_STEPS = (
    ("agents.engine.group_consumer", "GroupConsumer", "consume", "records out of librdkafka"),
    ("agents.engine.router", "Router", "deliver", "grouping by partition, handing over"),
    ("agents.engine.loop", "Engine", "_work", "agents: decoding, their code, tables"),
    ("agents.engine.epoch", "Epoch", "prepare", "barrier: encoding what tables changed"),
    ("agents.engine.committer", None, "_produce", "barrier: producing the changelog"),
    ("topics.producer", "TransactionalProducer", "send_offsets", "commit: waiting for Kafka, offsets" + _BESIDE),
    ("topics.producer", "TransactionalProducer", "commit", "commit: waiting for Kafka, transaction" + _BESIDE),
    ("agents.engine.committer", "ExactlyOnce", "_complete", "commit: the rest" + _BESIDE),
    ("agents.tables.partition_state", "PartitionState", "apply", "barrier: the stores' writes"),
    ("agents.engine.task", "TaskInput", "commit", "barrier: dropping the kept records"),
    ("agents.engine.epoch", "Epoch", "finish", "barrier: the rest"),
)


class Clock:
    """Seconds by step, on the wall and of the thread's CPU. One inside of another one in its thread is not
    counted in that."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._threads = threading.local()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Take the time of this step; no two threads are in one step at the same time."""
        began, inside = _now(), self._threads.__dict__.setdefault("inside", list[list[float]]())
        inside.append([0.0, 0.0])
        try:
            yield
        finally:
            took = [end - start for start, end in zip(began, _now(), strict=True)]
            inner = inside.pop()
            for i in (0, 1):
                self.taken[name][i] += took[i] - inner[i]
                if inside:
                    inside[-1][i] += took[i]

    def around(self, owner: Any, function: str, name: str) -> None:
        """Have the calls of a function counted as a step."""
        original: Callable[..., Any] = getattr(owner, function)
        if iscoroutinefunction(original):

            @wraps(original)
            async def timed_async(*args: Any, **kwargs: Any) -> Any:
                with self.step(name):
                    return await original(*args, **kwargs)

            setattr(owner, function, timed_async)
        else:

            @wraps(original)
            def timed(*args: Any, **kwargs: Any) -> Any:
                with self.step(name):
                    return original(*args, **kwargs)

            setattr(owner, function, timed)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.thread_time()


def cpu_of_threads() -> dict[str, float]:
    """CPU seconds of this process's threads that have used any, by id and name."""
    found: dict[str, float] = {}
    for path in Path("/proc/self/task").iterdir():
        try:
            head, _, tail = (path / "stat").read_text().rpartition(")")
        except OSError:
            continue  # a commit's thread that has just ended
        fields = tail.split()
        found[f"{path.name} {head.partition('(')[2]}"] = (int(fields[11]) + int(fields[12])) / _TICKS
    return found


def inside(arguments: list[str], out: Path) -> None:
    """In a process of its own: the worker, clocked."""
    from importlib import import_module

    import worker
    from anabranch.agents.engine.router import Router

    clock, begun = Clock(), dict[str, Any]()
    for module, owner, function, name in _STEPS:
        found = import_module(f"anabranch.{module}")
        clock.around(getattr(found, owner) if owner else found, function, name)
    deliver, until_committed = Router.deliver, worker.until_committed

    def first(*args: Any, **kwargs: Any) -> None:
        if not begun:
            begun.update(at=time.perf_counter(), process=time.process_time(), threads=cpu_of_threads())
        deliver(*args, **kwargs)

    async def last(*args: Any) -> float:
        done_at = await until_committed(*args)
        now = cpu_of_threads()
        facts = {
            "seconds": time.perf_counter() - begun["at"],
            "cpu_s": time.process_time() - begun["process"],
            "steps": clock.taken,
            "threads": {name: cpu_s - begun["threads"].get(name, 0.0) for name, cpu_s in now.items()},
            "loop": f"{os.getpid()} ",
        }
        out.write_text(json.dumps(facts))
        return done_at

    Router.deliver, worker.until_committed = first, last
    sys.argv = ["worker.py", *arguments]
    worker.main()


@click.command()
@click.option("--records", default=3_000_000, show_default=True, help="How many records.")
@click.option(
    "--repeat", default=3, show_default=True, type=click.IntRange(1), help="Runs, of which the best is shown."
)
@click.option("--store", default="memory://", show_default=True, help="Where the table is.")
@click.option("--bootstrap-server", help="Use this cluster instead of a broker of our own.")
def main(records: int, repeat: int, store: str, bootstrap_server: str | None) -> None:
    """Show where the time of a worker goes."""
    folder = Path(tempfile.mkdtemp(prefix="anabranch-bench-"))
    try:
        with broker(bootstrap_server) as (cluster, _), filled(cluster, "where", records) as source:
            runs = [_run(source, folder / str(number), store) for number in range(repeat + 1)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _show(min(runs[1:], key=lambda run: run["seconds"]), records)  # the first has warmed the broker up


def _run(source: Source, folder: Path, store: str) -> dict[str, Any]:
    folder.mkdir()
    name, facts_path = f"{source.topic}-{folder.name}", folder / "facts.json"
    command = [sys.executable, __file__, "--inside", str(facts_path)]
    command += ["--bootstrap-server", source.cluster.bootstrap_servers, "--topic", source.topic, "--store", store]
    command += ["--records", str(source.truth.records), "--name", name]
    command += ["--out", str(folder / "outcome.json"), "--data", str(folder / "data")]
    with (folder / "log").open("wb") as log:
        status = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
    if status:
        raise BenchError(f"ended with {status}: {(folder / 'log').read_text(errors='replace')[-2_000:]}")
    Admin(source.cluster).delete([f"{name}-totals-changelog"])
    facts = json.loads(facts_path.read_text())
    progress.print(f"{source.truth.records / facts['seconds']:>12,.0f} records/s")
    return facts


def _show(facts: dict[str, Any], records: int) -> None:
    steps = Table(box=box.SIMPLE_HEAD, title=f"{records / facts['seconds']:,.0f} records/s")
    threads_ = Table(box=box.SIMPLE_HEAD)
    for table, first, columns in (
        (steps, "step of the loop", ("seconds", "share", "ns a record", "CPU ns a record")),
        (threads_, "thread", ("CPU s", "CPU ns a record")),
    ):
        table.add_column(first, no_wrap=True)
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
    seconds = facts["seconds"]
    counted = [(name, *facts["steps"].get(name, (0.0, 0.0))) for *_, name in _STEPS]
    in_loop_s = sum(wall_s for name, wall_s, _ in counted if not name.endswith(_BESIDE))
    counted.append(("the loop itself, and waiting for records", seconds - in_loop_s, 0.0))
    for name, wall_s, cpu_s in counted:
        cpu = f"{cpu_s / records * 1e9:,.0f}" if cpu_s else ""
        steps.add_row(name, f"{wall_s:.2f}", f"{wall_s / seconds:.0%}", f"{wall_s / records * 1e9:,.0f}", cpu)
    named: dict[str, float] = defaultdict(float)
    for name, cpu_s in facts["threads"].items():
        named["the loop's" if name.startswith(facts["loop"]) else name.partition(" ")[2]] += cpu_s
    # Commits have threads that bear the name of the process, some of which have ended.
    named["commits'"] = named.pop("python", 0.0) + max(0.0, facts["cpu_s"] - sum(facts["threads"].values()))
    for name, cpu_s in sorted(named.items(), key=lambda pair: -pair[1]):
        if cpu_s >= 0.02:
            threads_.add_row(name, f"{cpu_s:.2f}", f"{cpu_s / records * 1e9:,.0f}")
    console = Console(width=max(Console().width, 120))
    console.print(steps)
    console.print(threads_)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[3:], Path(sys.argv[2]))
    else:
        main()
