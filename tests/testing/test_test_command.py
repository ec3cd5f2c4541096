"""`anabranch test`: an app in simulated worlds, from the command line."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fork_server import ForkServer

Run = Callable[[str], "subprocess.CompletedProcess[str]"]

APP = """
from anabranch import App

app = App("shop")
orders = app.topic("orders")
totals = app.Table("totals", default=int)
done = {done}

@app.agent(orders)
async def total(stream):
    async for order in stream:
        if order["id"] not in done:
            done[order["id"]] = True
            totals[order["user"]] += order["amount"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An app that keeps what it has done in a table, one that keeps it in a global variable, and a file of orders."""
    (tmp_path / "right.py").write_text(APP.format(done='app.Table("done", default=bool)'))
    (tmp_path / "wrong.py").write_text(APP.format(done="{}"))
    lines = [f"{number},u{number % 5},{number}" for number in range(24)]
    (tmp_path / "orders.csv").write_text("\n".join(["id,user,amount", *lines]))
    return tmp_path


@pytest.fixture
def run(folder: Path, forks: ForkServer) -> Run:
    """Runs a command in the folder."""

    def run(command: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(command)
        assert words[0] == "anabranch"
        return forks.run(words[1:], cwd=folder, env=os.environ, timeout_s=150)

    return run


def test_an_app_that_keeps_everything_in_tables_passes_with_packed_inputs_too(run: Run) -> None:
    ended = run("anabranch test right --input orders.csv --key user --seeds 5 --pack")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"^5 worlds in [\d.]+ s   faults: .*\d+ \w+", ended.stdout)
    assert ended.stdout.endswith("all ended with the result of a world without faults\n")


def test_a_failure_shows_what_differs_and_the_commands_that_repeat_it(run: Run) -> None:
    ended = run("anabranch test wrong -i orders=orders.csv -k user -n 50 --faults abort,lost-answer,kill")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert re.match(r"seed \d+: another result than in a world without faults\n  table totals: 'u", ended.stdout)
    assert "are enough):\n" in ended.stdout
    difference = ended.stdout.splitlines()[1]
    repeat = [line.strip() for line in ended.stdout.splitlines() if line.startswith("  anabranch test wrong ")]
    assert "--faults abort,lost-answer,kill" in repeat[0]
    assert "--seeds" not in repeat[0]
    for command in repeat:
        again = run(command)
        assert (again.returncode, again.stdout.splitlines()[1]) == (1, difference), command
    faults = ended.stdout.partition("are enough):\n")[2].partition("repeat this world:")[0]
    command = f"{repeat[0]} --plan {shlex.quote('; '.join(map(str.strip, faults.splitlines())))}"
    assert f"repeat this world:\n  {command}\n" in run(command).stdout


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("anabranch test right", "no input given"),
        ("anabranch test right -i nothing.csv", "nothing.csv"),
        ("anabranch test right -i payments=orders.csv", "app shop reads no topic payments"),
        ("anabranch test right -i orders.csv --faults kil", "no kind of fault 'kil'"),
        ("anabranch test right -i orders.csv --plan kill", "not a fault: 'kill'"),
        ("anabranch test nothing -i orders.csv", "no module named nothing"),
    ],
)
def test_bad_input_is_named(run: Run, command: str, said: str) -> None:
    ended = run(command)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_lines_that_are_no_records_are_named(run: Run, folder: Path) -> None:
    (folder / "bad.jsonl").write_text('{"id":1,"user":"ann","amount":1}\n{"id":\n')
    ended = run("anabranch test right -i bad.jsonl -k user")
    assert ended.returncode != 0
    assert "bad.jsonl:2" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_dead_letters_in_the_result_are_named(run: Run, folder: Path) -> None:
    ended = run("anabranch test right --input orders.csv --key user --seeds 1")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "dead letter" not in ended.stdout
    (folder / "bad.csv").write_text("nothing\n1\n2\n")
    ended = run("anabranch test right --input orders=bad.csv --seeds 1")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith("the result includes 2 dead letters in orders.dlq\n")
