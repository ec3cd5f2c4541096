"""A command that is forked starts other commands and programs as one in a process of its own does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anabranch
from fork_server import ForkServer

# What it starts while it is loaded, each with its exit code: a command, one that is killed, and another program.
APP = """
import os, signal, subprocess, sys
from anabranch import App

app = App("parent")

def code(*arguments):
    return subprocess.run([sys.executable, *arguments], input=b"", stdout=2).returncode

if "CHILD" in os.environ:
    assert sys.stdin.read() == ""
    print("the child's parent", os.getppid(), file=sys.stderr)
    os.kill(os.getpid(), int(os.environ["CHILD"]))
else:
    print("the parent's parent", os.getppid(), file=sys.stderr)
    found = [code("-m", "anabranch", "--version"), code("-m", "anabranch", "--nonsense")]
    os.environ["CHILD"] = str(int(signal.SIGKILL))
    found += [code("-m", "anabranch", "-A", "parent", "describe"), code("-c", "raise SystemExit(7)", "-m", "anabranch")]
    del os.environ["CHILD"]
    os.environ |= {"PYTHONHASHSEED": "4294967295", "PARENT": str(os.getpid())}
    found += [code("-m", "anabranch", "-A", "seeded", "describe")]
    print("codes", found, file=sys.stderr)
"""

SEEDED = """
import os, sys
from anabranch import App

app = App("seeded")
print("a process of its own:", os.getppid() == int(os.environ["PARENT"]), file=sys.stderr)
"""


def test_commands_that_a_command_starts_are_forks_and_other_programs_are_not(tmp_path: Path, forks: ForkServer) -> None:
    (tmp_path / "parent.py").write_text(APP)
    (tmp_path / "seeded.py").write_text(SEEDED)
    ended = forks.run(["-A", "parent", "describe"], cwd=tmp_path, env=os.environ, timeout_s=60)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stderr.splitlines()
    assert f"codes [0, 2, {-signal.SIGKILL}, 7, 0]" in lines, ended.stderr
    assert any(anabranch.__version__ in line for line in lines)
    assert "a process of its own: True" in lines, "a fork has the hash seed of the server"
    parents = [line.rpartition(" ")[2] for line in lines if "'s parent" in line]
    assert len(parents) == 2
    assert len(set(parents)) == 1, "both are forks of one process"
