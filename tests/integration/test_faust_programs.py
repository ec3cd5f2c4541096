"""Programs in the layout of Faust: agents in modules of their own, and a broker named by the program."""

from __future__ import annotations

import signal
from typing import Any

APP = """
from anabranch import App

app = App({name!r}, broker={broker!r}, autodiscover={autodiscover!r}, origin={origin!r})
"""

AGENTS = """
from project.app import app

lines = app.topic({name!r} + "-lines", value_type=str, partitions=1)
totals = app.Table("totals", default=int)

@app.agent(lines)
async def total(stream):
    async for line in stream:
        key, _, number = line.partition(",")
        totals[key] += int(number)
"""


def project(shell: Any, name: str, broker: str, autodiscover: object, origin: str | None = "project") -> None:
    (shell.folder / "project").mkdir()
    shell.write("project/__init__.py", "")
    shell.write("project/app.py", APP.format(name=name, broker=broker, autodiscover=autodiscover, origin=origin))
    shell.write("project/agents.py", AGENTS.format(name=name))
    del shell.environment["KAFKA_BOOTSTRAP_SERVERS"]


def test_a_worker_imports_what_autodiscover_names_and_goes_to_the_programs_broker(shell, broker, fresh):
    name = fresh("discovered")
    project(shell, name, f"kafka://{broker.bootstrap_servers}", ["project.agents"])
    worker = shell.start("-A", "project.app", "worker", "--without-web")
    said: list[str] = []
    for line in worker.stdout:
        said.append(line)
        if f"{name}-lines[0]" in line:
            break
    assert broker.bootstrap_servers in "".join(said)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 0


def test_a_bounded_run_discovers_agents_and_goes_to_the_programs_broker(shell, broker, fresh):
    name = fresh("discovered")
    project(shell, name, f"kafka://{broker.bootstrap_servers}", True)
    shell.write("data.txt", "ann,3\nbob,4\nann,5\n")
    done = shell.run(
        "run", "project.app", "--input", "data.txt", "--key-before", ",", "--output", "result.csv", timeout_s=240
    )
    assert done.returncode == 0, done.stderr
    assert "Kafka started" not in done.stderr
    assert (shell.folder / "result.csv").read_text().split() == ["key,value", "ann,8", "bob,4"]


def test_autodiscover_without_a_package_says_what_is_missing(shell, broker, fresh):
    project(shell, fresh("discovered"), f"kafka://{broker.bootstrap_servers}", True, None)
    done = shell.run("-A", "project.app", "worker")
    assert done.returncode == 2
    assert "autodiscover" in done.stderr
    assert "origin" in done.stderr


def test_a_module_that_autodiscover_names_and_is_not_there_ends_the_worker(shell, broker, fresh):
    project(shell, fresh("discovered"), f"kafka://{broker.bootstrap_servers}", ["project.gone"])
    done = shell.run("-A", "project.app", "worker")
    assert done.returncode == 2
    assert "project.gone" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_refused_setting_ends_the_worker_before_it_joins(shell, broker, fresh):
    name = fresh("refused")
    shell.write("refused.py", f"from anabranch import App\napp = App({name!r}, producer_acks=1)\nt = app.topic('x')\n")
    done = shell.run("-A", "refused", "worker", "--without-web")
    assert done.returncode == 2
    assert "producer_acks" in done.stderr
    assert "Traceback" not in done.stderr
