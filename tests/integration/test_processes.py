"""`anabranch worker --processes N`, and its JSON log."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from collections import Counter
from pathlib import Path

from confluent_kafka import ConsumerGroupType

APP = """
import anabranch
app = anabranch.App("{app}", topic_partitions=4)
numbers = app.topic("{app}-numbers", value_type=str)
sums = app.Table("sums", default=int)

@app.agent(numbers, name="add")
async def add(stream):
    async for line in stream:
        key, _, number = line.partition(",")
        sums[key] += int(number)
"""

BROKEN = """
import anabranch
app = anabranch.App("{app}")

@app.agent(app.topic("{app}-in", partitions=1))
async def broken(stream):
    raise RuntimeError("no luck today")
"""

STUCK = """
import time, anabranch
app = anabranch.App("{app}", topic_partitions=4)

@app.agent(app.topic("{app}-numbers", value_type=str))
async def stuck(stream):
    async for line in stream:
        print("stuck", flush=True)
        time.sleep(600)
"""


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/exe").exists()


def ask(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


def feed(shell, app: str, start: int, stop: int) -> None:
    file = shell.write(f"{start}.txt", "".join(f"k{n % 10},{n}\n" for n in range(start, stop)))
    sent = shell.run("replay", file, "--to", f"{app}-numbers", "--key-before", ",")
    assert sent.returncode == 0, sent.stderr


def test_the_dead_are_started_again_and_the_end_is_passed_on(shell, fresh, free_port, eventually) -> None:
    #  parent  ──────────────────────────── SIGTERM ── 0
    #  0       ── kill -9 ── again ────────── ends
    #  1       ────────────────────────────── ends
    app = fresh("crew")
    shell.write("crew.py", APP.format(app=app))
    parent = shell.start("-A", "crew", "worker", "--processes", 2, "--web-port", free_port(), "-l", "info")
    output = shell.output(parent)

    def ready() -> list[tuple[str, ...]]:
        return output.found(r"^\[(\d)\] .*ready on .* pid (\d+)   web (\S+)")

    eventually(lambda: {who for who, _, _ in ready()} == {"0", "1"}, "both are ready")
    assert [ask(f"{web}/healthz") for _, _, web in ready()] == ["ok", "ok"]
    parent.send_signal(signal.SIGUSR1)
    eventually(lambda: output.found(rf"^\[(\d)\] {app}: .* records/s, 0 records in all"), "they show their status")
    feed(shell, app, 0, 1_000)
    victim = next(int(pid) for who, pid, _ in ready() if who == "0")
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(ready()) == 3, "who was killed is there again")
    assert ready()[2][0] == "0"
    assert output.found(r"^\[(0)\] worker was killed by SIGKILL: restarted$")
    feed(shell, app, 1_000, 2_000)

    def reached() -> bool:
        shown = shell.run("-A", "crew", "tables", "sums", "-J")
        totals = {pair["key"]: pair["value"] for pair in map(json.loads, shown.stdout.splitlines())}
        return totals == {f"k{k}": sum(range(k, 2_000, 10)) for k in range(10)}

    eventually(reached, "the totals are right")
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(120) == 0, output
    assert not any(alive(int(pid)) for _, pid, _ in ready())


def test_a_second_signal_ends_a_worker_whose_agent_blocks_it(shell, fresh, eventually) -> None:
    app = fresh("stuck")
    shell.write("stuck.py", STUCK.format(app=app))
    worker = shell.start("-A", "stuck", "worker", "--without-web")
    output = shell.output(worker)
    feed(shell, app, 0, 1)
    eventually(lambda: output.found("^(stuck)$"), "the agent blocks")

    def ended() -> bool:
        worker.send_signal(signal.SIGTERM)
        return worker.poll() is not None

    eventually(ended, "the worker ends")
    assert worker.returncode == 128 + signal.SIGTERM, output
    eventually(lambda: output.found("(second signal)"), "the worker says why")


def test_workers_end_when_their_parent_is_killed(shell, fresh, broker, eventually) -> None:
    app = fresh("crew")
    shell.write("crew.py", APP.format(app=app))
    options = ["--processes", 2, "--without-web", "--group-protocol", "consumer"]
    parent = shell.start("-A", "crew", "worker", *options)
    output = shell.output(parent)
    eventually(lambda: len(output.found(r"ready on .* pid (\d+)")) == 2, "both are ready")
    pids = [int(pid) for (pid,) in output.found(r"ready on .* pid (\d+)")]
    admin = broker.admin()
    group = admin.describe_consumer_groups([app])[app].result(30)
    assert (group.type, len(group.members)) == (ConsumerGroupType.CONSUMER, 2), "the option has reached the workers"
    parent.kill()
    eventually(lambda: not any(map(alive, pids)), "the workers end, too")


def test_who_dies_at_once_again_and_again_ends_the_whole_with_what_it_said(shell, fresh) -> None:
    shell.write("crew.py", BROKEN.format(app=fresh("broken")))
    ended = shell.run("-A", "crew", "worker", "--processes", 2, "--without-web")
    assert ended.returncode == 1
    assert len(re.findall(r"^\[\d\] worker ended with exit code 1: restarted", ended.stderr, re.M)) >= 3
    last = ended.stderr[ended.stderr.rindex("\nerror: ") :]
    assert re.search(r"worker \d ended with exit code 1, the 4th time in a row", last)
    assert "no luck today" in last


def test_a_mistake_in_the_program_is_not_tried_again(shell, fresh) -> None:
    app = fresh("crew")
    shell.write("crew.py", APP.format(app=app))
    ended = shell.run("-A", "crew", "worker", "--processes", 2, "--web-bind", "192.0.2.1")
    assert ended.returncode == 2
    assert "restarted" not in ended.stderr
    assert "192.0.2.1" in ended.stderr


def test_logs_as_json_are_one_object_a_line_and_hold_no_secret(shell, fresh, eventually) -> None:
    app, secret = fresh("crew"), "do-not-tell-anyone"
    shell.write("crew.py", APP.format(app=app))
    options = ["--processes", 2, "-l", "info", "--log-format", "json", "-X", f"sasl.password={secret}"]
    worker = shell.start("-A", "crew", "worker", *options)
    output = shell.output(worker)

    def found(text: str) -> list[dict[str, object]]:
        return [line for line in map(json.loads, list(output.lines)) if text in line["message"]]

    eventually(lambda: len(found("ready on")) == 2, "ready")
    shell.write("bad.txt", f"k0,{secret}\n")
    assert shell.run("replay", "bad.txt", "--to", f"{app}-numbers", "--key-before", ",").returncode == 0
    eventually(lambda: bool(found("dead letter")), "the record is set aside")
    worker.send_signal(signal.SIGINT)
    assert worker.wait(120) == 0
    output.reader.join(60)
    letter = found("dead letter")[0]
    assert (letter["group"], letter["topic"], letter["offset"], letter["level"]) == (
        app,
        f"{app}-numbers",
        0,
        "warning",
    )
    assert letter["partition"] in range(4)
    assert letter["agent"] == "add"
    for line in found("assigned "):
        assert line["seconds"] >= 0
        assert line["generation"] >= 1
    assert Counter(line["pid"] for line in found("ready on")).most_common(1)[0][1] == 1
    assert secret not in str(output)


def test_an_error_ends_a_json_log_as_an_object(shell, fresh) -> None:
    shell.write("crew.py", BROKEN.format(app=fresh("broken")))
    ended = shell.run("-A", "crew", "worker", "--without-web", "--log-format", "json")
    assert ended.returncode == 1
    last = json.loads(ended.stderr.splitlines()[-1])
    assert last["level"] == "critical"
    assert "no luck today" in last["message"]
    assert "the traceback is in the log" in last["hint"]
