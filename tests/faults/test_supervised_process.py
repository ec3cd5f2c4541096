"""The supervisor of the workers of a round of faults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scenario import Trap
from supervised_process import Worker

FREEZES_AT_ITS_END = """
import os, signal, time

def end(*_):
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)

signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_worker_that_freezes_itself_while_it_ends_continues_and_ends(tmp_path: Path) -> None:
    worker = Worker(0, {}, tmp_path)
    worker.log.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", FREEZES_AT_ITS_END], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    worker._process, worker._trap = process, Trap(0.0, 0, "commit", 1, "STOP", 0.1)
    worker.end()
    process.stdout.close()
    assert worker.wrong == []
    assert process.returncode == 0


def test_a_worker_that_has_been_told_to_end_is_not_frozen(tmp_path: Path) -> None:
    worker = Worker(0, {}, tmp_path, wanted=False)
    worker._process = process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        worker.freeze(10.0)
        assert not worker._frozen
    finally:
        process.kill()
        process.wait()
