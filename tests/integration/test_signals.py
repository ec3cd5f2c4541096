"""SIGTERM ends every command within seconds; the exit code tells whether work was left."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from anabranch.replay.archive.manifest import read_manifest

END_S = 60  # a bound for tests on a busy machine; a command takes no longer than its grace

APP = """
import anabranch
app = anabranch.App("{app}")
events = app.topic("{app}-events", value_type=str, partitions=1)
counts = app.Table("counts", default=int)

@app.agent(events)
async def count(stream):
    async for event in stream:
        counts[event] += 1
"""


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that takes connections and says nothing: a broker that hangs, a socket without lines."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield server


def address(server: socket.socket) -> str:
    return "{}:{}".format(*server.getsockname())


def ended(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
    process.send_signal(number)
    said, _ = process.communicate(timeout=END_S)
    assert "Traceback" not in said, said
    return process.returncode, said


@pytest.mark.parametrize(
    "command",
    [
        ("topics",),
        ("verify", "a.jsonl", "topic://t"),
        ("replay", "a.jsonl", "--to", "t"),
        ("archive", "t", "--to", "archive", "--follow"),
        ("-A", "shop", "tables", "counts", "--follow"),
        ("run", "shop", "--input", "a.jsonl"),
    ],
    ids=lambda command: command[0] if command[0] != "-A" else "tables",
)
def test_a_command_whose_broker_does_not_answer_ends(shell, silent: socket.socket, command: tuple[str, ...]) -> None:
    shell.write("a.jsonl", "{}\n")
    shell.write("shop.py", APP.format(app="shop"))
    process = shell.start(*command, "-b", address(silent))
    connection, _ = silent.accept()  # it waits for an answer now
    with connection:
        code, _ = ended(process)
    assert code == 143


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_replay_that_waits_for_a_socket_ends_with_what_was_left(
    shell, fresh, drain, eventually, silent: socket.socket, number: signal.Signals, code: int
) -> None:
    topic = fresh()
    process = shell.start("replay", f"tcp://{address(silent)}", "--to", topic, "--key-before", ",", "--partitions", 1)
    connection, _ = silent.accept()
    with connection:
        connection.sendall(b"a,1\n")
        # What has come is committed while it waits for more.
        eventually(lambda: _count(drain, topic) == 1, "the line is in the topic")
        assert ended(process, number)[0] == code


def _count(drain, topic: str) -> int:
    try:
        return len(drain(topic))
    except (AssertionError, KeyError):
        return 0


def test_what_goes_on_until_it_is_told_to_end_ends_with_0_and_nothing_half_written(shell, fresh, eventually) -> None:
    topic = fresh()
    shell.write("a.jsonl", '{"k":1}\n' * 1_000)
    assert shell.run("replay", "a.jsonl", "--to", topic).returncode == 0
    process = shell.start("archive", topic, "--to", "archive", "--follow", "--roll-time", "1s")
    folder = shell.folder / "archive"

    def holds_all() -> bool:
        manifest = read_manifest(folder) if folder.is_dir() else None
        return manifest is not None and manifest.records == 1_000

    eventually(holds_all, "the archive holds all")
    assert ended(process)[0] == 0
    assert not [path for path in folder.iterdir() if path.name.endswith(".part")]
    assert shell.run("archive", "check", "archive").returncode == 0


PROGRAM = """
import sys, time
from anabranch.replay import signals
signals.GRACE_S = {grace}
signals.install()
{stop}
print("ready", flush=True)
time.sleep(600)
"""


def program(stop: str, *, grace: float) -> subprocess.Popen[str]:
    text = PROGRAM.format(stop=stop, grace=grace)
    process = subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_command_that_does_not_come_to_its_end_is_ended_after_its_grace() -> None:
    # A handler that only notes is what a call into a library looks like: the sleep goes on.
    code, said = ended(program("signals.call_on_signal(lambda: None)", grace=0.2))
    assert code == 143
    assert "still running" in said


def test_a_second_signal_ends_it_at_once() -> None:
    process = program("signals.call_on_signal(lambda: print('told', flush=True))", grace=600)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "told\n"
    code, said = ended(process, signal.SIGTERM)
    assert code == 130
    assert "second signal" in said


def test_who_watches_its_own_end_is_left_alone() -> None:
    process = program(
        "signals.disable_deadline(); signals.call_on_signal(lambda: print('told', flush=True))", grace=0.0
    )
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "told\n"
    assert process.poll() is None
    process.kill()
    process.communicate()
