"""A worker ends on SIGTERM, whatever hangs in it."""

from __future__ import annotations

import json
import signal

STUCK = """
import asyncio, threading
from anabranch import App
from anabranch.agents.engine.settings import EngineSettings

app = App({name!r}, settings=EngineSettings(stuck_s=1.0))
lines = app.topic({name!r} + "-lines", value_type=str, partitions=1)

@app.timer(0.1)
async def hang():
    print("hanging", flush=True)
    await asyncio.to_thread(threading.Event().wait)  # a thread that nobody can end
"""


def test_a_thread_that_hangs_does_not_keep_a_worker_alive(shell, fresh):
    shell.write("stuck.py", STUCK.format(name=fresh("stuck")))
    workers = [
        shell.start("-A", "stuck", "worker", "--without-web", "--log-format", form, "--datadir", form)
        for form in ("text", "json")
    ]
    for worker in workers:
        for line in worker.stdout:
            if "hanging" in line:
                break
        worker.send_signal(signal.SIGTERM)
    text, lines = (worker.communicate(timeout=90)[0] for worker in workers)
    assert [worker.returncode for worker in workers] == [1, 1]
    assert "error: ended before the last epoch was known to be committed" in text
    last = json.loads([line for line in lines.splitlines() if line != "hanging"][-1])
    assert (last["level"].lower(), "is the broker up?" in last["hint"]) == ("critical", True)
