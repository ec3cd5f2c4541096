"""The first commands of a new user: send, tail, lag, describe, agents."""

from __future__ import annotations

import json
import signal

import pytest

APP = """
import msgspec
from anabranch import App

class Order(msgspec.Struct):
    user: str
    amount: int

app = App("{app}", web_enabled=False)
orders = app.topic("{app}-orders", value_type=Order, partitions=3)
totals = app.Table("totals", default=int, help="amount by user")

@app.agent(orders, name="total")
async def total(stream):
    async for order in stream:
        totals[order.user] += order.amount
"""
ANN = '{"user":"ann","amount":3}'


@pytest.fixture
def app(shell, fresh) -> str:
    name = fresh("shop")
    shell.write("mine.py", APP.format(app=name))
    return name


def shown(shell, topic: str, *arguments: str) -> list[dict]:
    return [json.loads(line) for line in shell.run("tail", topic, "-J", *arguments).stdout.splitlines()]


def test_a_record_is_sent_processed_and_seen(shell, app, eventually):
    topic = f"{app}-orders"
    sent = shell.run("-A", "mine", "send", topic, "ann", ANN, "-H", "trace=1")
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.startswith(f"sent to {topic}[")
    assert {row["topic"]: row for row in shown(shell, topic)}[topic]["value"] == {"user": "ann", "amount": 3}
    worker = shell.fork("-A", "mine", "worker")

    def lags() -> list[int]:
        return [json.loads(line)["lag"] for line in shell.run("lag", app, "-J").stdout.splitlines()]

    def total() -> str:
        return shell.run("-A", "mine", "tables", "totals", "-J").stdout

    eventually(lambda: total() == '{"key":"ann","value":3}\n', "the agent has processed it")
    assert set(lags()) == {0}
    assert f"group {app}: lag 0, 1 member" in shell.run("-A", "mine", "lag").stdout
    worker.terminate()
    assert worker.wait(120) == 0


def test_a_declared_topic_is_made_as_declared_and_others_are_refused_with_the_nearest_name(shell, app):
    topic = f"{app}-orders"
    wrong = shell.run("-A", "mine", "send", f"{app}-order", "ann", ANN)
    assert wrong.returncode == 2
    assert f"did you mean {topic}?" in wrong.stderr
    assert shell.run("send", topic, "ann", ANN).returncode == 2, "nobody has declared it"
    assert shell.run("-A", "mine", "send", topic, "ann", ANN).returncode == 0
    listed = shell.run("topics").stdout
    assert next(line for line in listed.splitlines() if topic in line).split("│")[2].strip() == "3"
    created = shell.run("send", f"{app}-other", "-", "text", "--create")
    assert created.returncode == 0, created.stderr
    assert [(row["key"], row["value"]) for row in shown(shell, f"{app}-other")] == [(None, "text")]
    assert "did you mean" in shell.run("tail", f"{app}-othr").stderr


@pytest.mark.parametrize("value", ['{"user":"ann"}', "ann"])
def test_a_value_that_the_app_cannot_decode_is_refused(shell, app, value):
    refused = shell.run("-A", "mine", "send", f"{app}-orders", "ann", value)
    assert refused.returncode == 2
    assert "is not Order" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert shown(shell, f"{app}-orders") == []


def test_a_line_that_the_app_cannot_decode_is_named_and_those_before_it_are_sent(shell, app):
    shell.write("lines.txt", '{"user":"ann","amount":1}\n\n{"user":"bob"}\n{"user":"cyd","amount":2}\n')
    with (shell.folder / "lines.txt").open() as lines:
        refused = shell.run("-A", "mine", "send", f"{app}-orders", stdin=lines)
    assert refused.returncode == 2
    assert "line 3: the value" in refused.stderr and "the lines before it have been sent" in refused.stderr
    assert [row["value"]["user"] for row in shown(shell, f"{app}-orders")] == ["ann"]


def test_lines_are_sent_with_their_keys(shell, app):
    topic = f"{app}-lines"
    shell.write("lines.txt", "ann:1\n\nbob:2\nann:3\n")
    command = ["send", topic, "-K", ":", "--create", "--partitions", "2"]
    with (shell.folder / "lines.txt").open() as lines:
        assert "sent 3 records" in shell.run(*command, stdin=lines).stdout
    assert sorted((row["key"], row["value"]) for row in shown(shell, topic)) == [("ann", 1), ("ann", 3), ("bob", 2)]
    assert [row["value"] for row in shown(shell, topic, "--key", "ann")] == [1, 3]
    assert [row["value"] for row in shown(shell, topic, "--key", "ann", "-n", "1")] == [3]
    assert shell.run("send", "-Z", topic, "ann").returncode == 0
    assert shown(shell, topic, "--key", "ann", "-n", "1")[0]["value"] is None
    assert shell.run("send", topic, "ann").returncode == 2, "a key without a value"


def test_packed_rows_are_shown_and_filtered(shell, app):
    topic = f"{app}-packed"
    rows = [{"user": f"u{n}", "amount": n} for n in range(100)]
    shell.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    made = shell.run("replay", "rows.jsonl", "--to", topic, "--key", "user", "--partitions", "1", "--pack")
    assert made.returncode == 0, made.stderr
    assert len(shown(shell, topic, "--from", "earliest")) == 100
    last = shown(shell, topic, "--where", "amount >= 98")
    assert sorted((row["key"], row["value"]["amount"]) for row in last) == [("u98", 98), ("u99", 99)]
    assert "#99  u99" in shell.run("tail", topic).stdout


def test_times_cut_packed_batches_at_their_rows(shell, app):
    topic = f"{app}-packed-times"
    rows = [{"user": "u", "at": f"2026-01-01T10:{n:02}:00Z"} for n in range(60)]
    shell.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    made = shell.run(
        *("replay", "rows.jsonl", "--to", topic, "--key", "user", "--time", "at", "--partitions", "1", "--pack")
    )
    assert made.returncode == 0, made.stderr
    assert shell.run("send", topic, "v", '{"at": "now"}').returncode == 0

    def minutes(*arguments):
        return [row["value"]["at"][14:16] for row in shown(shell, topic, *arguments)]

    assert minutes("--from", "2026-01-01T10:58Z") == ["58", "59", ""]
    assert minutes("--from", "2026-01-01T10:03Z", "--until", "2026-01-01T10:05Z") == ["03", "04"]
    assert minutes("--until", "2026-01-01T10:02Z") == ["00", "01"]
    assert minutes("-n", "2", "--until", "2026-01-02") == ["58", "59"]
    assert "omit --until" in shell.run("tail", topic, "-f", "--until", "2026-01-02").stderr


def test_following_shows_what_arrives(shell, app):
    topic = f"{app}-live"
    assert shell.run("send", topic, "a", "1", "--create").returncode == 0
    follower = shell.fork("tail", topic, "-f", "-J")
    assert json.loads(follower.stdout.readline())["value"] == 1
    assert shell.run("send", topic, "a", "2").returncode == 0
    assert json.loads(follower.stdout.readline())["value"] == 2
    follower.send_signal(2)
    assert follower.wait(120) == 0


def test_an_app_is_described_without_a_cluster(shell, app):
    described = shell.run("-A", "mine", "describe", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert described.returncode == 0, described.stderr
    for words in (f"{app}  exactly once", "amount by user", f"{app}-totals-changelog", "Order", "web_enabled = False"):
        assert words in described.stdout
    assert "Router" not in described.stdout
    assert "total" in shell.run("-A", "mine", "agents").stdout
    assert "no app given" in shell.run("describe").stderr


def test_a_worker_says_what_it_is_how_it_goes_and_what_it_did(shell, app, eventually):
    topic = f"{app}-orders"
    assert shell.run("-A", "mine", "send", topic, "ann", ANN).returncode == 0
    worker = shell.fork("-A", "mine", "worker")
    lines: list[str] = []
    while not any("send a record" in line for line in lines):
        lines.append(worker.stdout.readline())
    described = "".join(lines)
    for words in (f"{app}: ready on ", ", exactly once, Kafka\n", f"agent total ← {topic}", "tables totals (memory)"):
        assert words in described
    assert f"anabranch -A mine send {topic} KEY VALUE" in described
    assert '"value":3' in _until(eventually, lambda: shell.run("-A", "mine", "tables", "totals", "-J").stdout)
    worker.stdout.readline()  # its partitions
    worker.send_signal(signal.SIGUSR1)
    assert "1 record in all, lag 0, 3 partitions" in worker.stdout.readline()
    worker.terminate()
    rest = worker.stdout.read()
    assert worker.wait(120) == 0
    assert f"{app}: stopped after " in rest
    assert ": 1 record in " in rest
    assert "\x1b" not in rest


def _until(eventually, read) -> str:
    found: list[str] = []
    eventually(lambda: found.append(read()) or bool(found[-1]), "an answer")
    return found[-1]


def test_an_app_is_reset_only_when_it_is_told_to_and_its_workers_have_stopped(shell, app, eventually):
    topic = f"{app}-orders"
    assert "no offsets, no topics of its own" in shell.run("-A", "mine", "reset").stdout
    assert shell.run("-A", "mine", "send", topic, "ann", ANN).returncode == 0
    worker = shell.fork("-A", "mine", "worker")

    def total() -> str:
        return shell.run("-A", "mine", "tables", "totals", "-J").stdout

    eventually(lambda: total() == '{"key":"ann","value":3}\n', "the agent has processed it")
    refused = shell.run("-A", "mine", "reset", "--yes")
    assert (refused.returncode, refused.stdout) == (1, ""), refused.stdout
    assert f"workers of {app} are running (1)" in refused.stderr
    worker.terminate()
    assert worker.wait(120) == 0
    shown = shell.run("-A", "mine", "reset")
    assert shown.returncode == 0, shown.stderr
    assert f"would delete topic {app}-totals-changelog" in shown.stdout
    assert f"kept: {topic}, with all records" in shown.stdout
    assert total() == '{"key":"ann","value":3}\n', "nothing has been changed"
    done = shell.run("-A", "mine", "reset", "--yes")
    assert f"deleted topic {app}-totals-changelog" in done.stdout, done.stderr
    assert "there is no changelog" in shell.run("-A", "mine", "tables").stderr
    assert f"{topic}[" in shell.run("tail", topic).stdout
