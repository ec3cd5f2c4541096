"""A worker ends on SIGTERM, whatever hangs in it."""

from __future__ import annotations

import json
import signal
import threading
import urllib.error
import urllib.request

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
    text, lines = (worker.communicate(timeout=150)[0] for worker in workers)
    assert [worker.returncode for worker in workers] == [1, 1]
    assert "error: ended before the last epoch was known to be committed" in text
    last = json.loads([line for line in lines.splitlines() if line != "hanging"][-1])
    assert (last["level"].lower(), "is the broker up?" in last["hint"]) == ("critical", True)


BLOCKING = """
import time
from anabranch import App
from anabranch.agents.engine.settings import EngineSettings

app = App({name!r}, settings=EngineSettings(stuck_s=2.0, max_poll_interval_ms=10_000))
lines = app.topic({name!r} + "-lines", value_type=str, partitions=1)

@app.agent(lines, name="sleeper")
async def sleeper(stream):
    async for line in stream:
        print("asleep", flush=True)
        time.sleep(600)
"""


def health(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()


def test_an_agent_that_blocks_the_event_loop_is_named_by_healthz_and_on_sigterm(shell, fresh, free_port, eventually):
    name = fresh("blocking")
    shell.write("blocking.py", BLOCKING.format(name=name))
    assert shell.run("-A", "blocking", "send", f"{name}-lines", "k", "a line").returncode == 0
    port = free_port()
    worker = shell.start("-A", "blocking", "worker", "-p", port)
    assert any("asleep" in line for line in worker.stdout)
    eventually(lambda: "event loop blocked" in health(port)[1], "the thread answers")
    status, text = health(port)
    assert (status, text.split(" for ")[0], text.split(" s ")[1]) == (200, "event loop blocked", "in agent sleeper")
    eventually(lambda: health(port)[0] == 503, "it is not alive for ever")
    output: list[str] = []
    reading = threading.Thread(target=lambda: output.extend(worker.stdout))
    reading.start()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 1
    reading.join()
    told = "".join(output)
    assert f"SIGTERM: waiting for agent sleeper at {name}-lines[0]@0, for " in told
    assert "error: ended before the last epoch was known to be committed" in told
