"""`worker --reload`: a changed program goes on where the old one was, and each record is processed once."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from anabranch.replay.cli import worker
from anabranch.replay.cluster_choice import ClusterChoice
from anabranch.replay.runs import reloader
from anabranch.topics.cluster import Cluster

APP = """
from anabranch import App
app = App("{app}", web_enabled=False, topic_partitions=2)
totals = app.Table("totals", default=int)

@app.agent(app.topic("{app}-n", value_type=int), name="add")
async def add(stream):
    async for n in stream:
        totals["all"] += FACTOR * n

FACTOR = 1
"""


def test_a_worker_is_restarted_with_its_changed_program(shell, fresh, eventually):
    app = fresh("app")
    program = APP.format(app=app)
    shell.write("mine.py", program)

    def send(n: int) -> None:
        assert shell.run("-A", "mine", "send", f"{app}-n", "k", n).returncode == 0

    def total() -> str:
        return shell.run("-A", "mine", "tables", "-J").stdout

    worker = shell.start("-A", "mine", "worker", "--reload")
    out = shell.output(worker)
    eventually(lambda: out.count(": ready on") == 1, "the first start")
    eventually(lambda: out.count("agent add ←") == 1, "it is described")
    send(1)
    eventually(lambda: '"value":1}' in total(), "by the first program")
    shell.write("mine.py", program.replace("FACTOR = 1", "FACTOR = 10"))
    eventually(lambda: out.count(": ready on") == 2, "the second start")
    assert out.count("mine.py changed: the worker is restarted") == 1
    assert out.count(": stopped after") == 1, "the first worker has committed and left the group"
    send(2)
    eventually(lambda: '"value":21}' in total(), "by the second program")
    # A program that cannot be loaded waits for the next change.
    shell.write("mine.py", "x = (")
    eventually(lambda: out.count("it starts again when a file changes") == 1, "the error is shown")
    assert out.count("mine is not valid Python") == 1
    shell.write("mine.py", program.replace("FACTOR = 1", "FACTOR = 100"))
    eventually(lambda: out.count(": ready on") == 3, "the third start")
    send(3)
    eventually(lambda: '"value":321}' in total(), "by the third program")
    worker.send_signal(signal.SIGINT)
    assert worker.wait(120) == 0, out.lines


def test_a_worker_ends_with_the_process_that_watches_its_program(shell, fresh, eventually):
    app = fresh("app")
    shell.write("mine.py", APP.format(app=app))
    worker = shell.start("-A", "mine", "worker", "--reload")
    out = shell.output(worker)
    eventually(lambda: out.count("pid ") == 1, "the start")
    child = int(next(line for line in out.lines if "pid " in line).split("pid ")[1].split()[0])
    worker.kill()

    def gone() -> bool:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return True
        return False

    eventually(gone, "the worker reads the end of its standard input")


def test_several_processes_are_not_reloaded(shell, fresh):
    shell.write("mine.py", APP.format(app=fresh("app")))
    refused = shell.run("-A", "mine", "worker", "--reload", "--processes", "2")
    assert (refused.returncode, "omit --processes" in refused.stderr) == (2, True)


@pytest.mark.parametrize("embedded", [True, False])
def test_the_worker_is_told_whether_its_kafka_is_the_embedded_one(monkeypatch, embedded: bool):
    """It is started with the address of the broker, so it cannot know."""
    given: list[str] = []

    class Recorded:
        def __init__(self, _cluster: Cluster, _name: str, arguments: list[str], **_: Any) -> None:
            given.extend(arguments)

        show_status = None

        def run(self) -> None: ...

    monkeypatch.setattr(reloader, "Reloader", Recorded)
    context = worker.worker.make_context("worker", [], resilient_parsing=True)
    settings = {name: context.params[name] for name in worker.WorkerSettings.__annotations__}
    worker._reload("mine", ClusterChoice(Cluster.named("127.0.0.1:1"), embedded=embedded), [], settings)
    params = worker.worker.make_context("worker", given).params
    assert (params["describe"], params["embedded"]) == (True, embedded)
