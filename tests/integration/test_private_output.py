"""Private fields and secrets are planted, every command and endpoint runs, and no output holds any of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

EMAIL, PHONE, STREET = "leaky.person@example.org", "5550199887", "Hidden Lane 9"
PASSWORD, TOKEN, KEY = "correct-horse-battery", "tok-0123456789abcdef", "a key that nobody may ever see"
NEVER = (EMAIL, "leaky", PHONE, STREET, PASSWORD, TOKEN, KEY)

APP = """
import asyncio, logging
import msgspec
from anabranch import App, Count, pseudonym

class Person(msgspec.Struct, rename="camel"):
    phone_nr: str
    street: str = ""

class Order(msgspec.Struct):
    email: str
    amount: int
    person: Person | None = None

app = App("{app}", topic_partitions=2)
orders = app.topic("{app}-orders", value_type=Order, partitions=2, private=["email", "person.phone_nr", "street"])
last = app.Table("last", value_type=Order, help="last order by key")
by_key = app.Table("by-email", default=int, private=["$key"], local=True)
orders.key_by("email").aggregate("per-email", n=Count())
orders.with_columns(who=pseudonym("email", key="env:PSEUDONYM_KEY")).key_by("who").aggregate("per-person", n=Count())

async def background(order):
    raise RuntimeError(f"in the background: {{order.email}}")

@app.agent(orders, name="keep")
async def keep(stream):
    async for key, order in stream.items():
        by_key[order.email] += 1
        if order.amount == -1:
            raise ValueError(f"no address: {{order.email.upper()}} {{order.email[:6]}}")
        if order.amount == -2:
            try:
                int(order.person.phone_nr + "x")
            except ValueError as exc:
                raise KeyError(order.email) from exc
        if order.amount == -3:
            raise ExceptionGroup(order.email, [ValueError(order.person.phone_nr)])
        if order.amount == -4:
            eval(order.email)
        if order.amount == -5:
            asyncio.ensure_future(background(order))
            logging.getLogger("shop").error("failed", exc_info=ValueError(order.email))
            logging.getLogger("shop").warning("failed: %s", ValueError(order.email))
        last[str(order.amount)] = order
"""


def order(amount: object, **more: object) -> str:
    person = {"phoneNr": PHONE, "street": STREET}
    return json.dumps({"email": EMAIL, "amount": amount, "person": person, **more})


# Runs commands, each in a fork of a process that has imported the program: importing takes longest.
FORKS = """
import importlib, json, os, sys
from pathlib import Path
from anabranch.replay.cli import entry
import anabranch.agents, anabranch.replay.player, anabranch.replay.table_reader, rich.table
for name in entry.COMMANDS:
    importlib.import_module(f"anabranch.replay.cli.{name}")
out = Path("output.txt")
for line in sys.stdin:
    if (child := os.fork()) == 0:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1), os.dup2(descriptor, 2)
        sys.argv = ["anabranch", *json.loads(line)]
        code = 0
        try:
            entry.main()
        except SystemExit as exc:
            code = int(exc.code or 0)
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([code, out.read_text()]), flush=True)
"""


class Seen:
    """All output of the commands; each is looked at."""

    def __init__(self, shell) -> None:
        self.shell = shell
        shell.write("forks.py", FORKS)
        self.forks = subprocess.Popen(
            [sys.executable, "forks.py"],
            cwd=shell.folder,
            env=shell.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        shell.started.append(self.forks)

    def ran(self, *arguments: object) -> tuple[int, str]:
        """The exit code and the output of a command."""
        assert self.forks.stdin is not None and self.forks.stdout is not None
        self.forks.stdin.write(json.dumps(list(map(str, arguments))) + "\n")
        self.forks.stdin.flush()
        return tuple(json.loads(self.forks.stdout.readline()))

    def run(self, *arguments: object, code: int | None = 0) -> str:
        """The output of a command, in which nothing private is found."""
        ended, text = self.ran(*arguments)
        assert code is None or ended == code, (arguments, ended, text)
        self.look(" ".join(map(str, arguments)), text)
        return text

    def look(self, name: str, text: str) -> None:
        found = [word for word in NEVER if word.lower() in text.lower()]
        assert not found, f"{name} shows {found}:\n{text}"


def get(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.read().decode()


@pytest.fixture
def seen(shell, fresh) -> Seen:
    shell.environment |= {
        "KAFKA_SASL_PASSWORD": PASSWORD,
        "PSEUDONYM_KEY": KEY,
        "ANABRANCH_OPTIONS": f"ssl.key.password={PASSWORD}",
    }
    seen = Seen(shell)
    seen.app = fresh("private")
    shell.write("mine.py", APP.format(app=seen.app))
    return seen


def test_no_command_and_no_endpoint_shows_private_fields_or_secrets(seen, free_port, eventually):
    shell, topic = seen.shell, f"{seen.app}-orders"
    program = ("-A", "mine")
    lines = [order(n) for n in (1, 2, -1, -2, -3, -4, -5)]
    shell.write("orders.jsonl", "\n".join(lines) + "\n")
    seen.run(*program, "describe")
    seen.run(*program, "agents")
    seen.run(*program, "send", topic, EMAIL, lines[0])
    seen.run(*program, "send", topic, "k", order(EMAIL), code=2)
    shell.write("sent.jsonl", "\n".join([*lines[1:], order(EMAIL), EMAIL]) + "\n")
    assert shell.run("send", topic, stdin=(shell.folder / "sent.jsonl").open()).returncode == 0
    port = free_port()
    for form in ("json", "text"):
        worker = shell.start(*program, "worker", "-l", "debug", "--log-format", form, "--web-port", port)
        output: list[str] = []
        reader = threading.Thread(target=lambda stream=worker.stdout, into=output: into.extend(stream))
        reader.start()
        eventually(lambda: "Content-Type" in str(reachable(port)), "the web port answers")
        eventually(lambda: json.loads(get(port, "/tables/last/") or "{}").get("keys", 0) >= 3, "it has processed them")
        worker.send_signal(signal.SIGUSR1)
        for path in ("/healthz", "/readyz", "/metrics", "/restore/", "/tables/", "/tables/last/", "/tables/last/1/"):
            seen.look(f"{form} {path}", get(port, path))
        for table in ("by-email", "per-email", "per-person"):
            seen.look(f"{form} {table}", get(port, f"/tables/{table}/"))
        assert '"amount":1' in get(port, "/tables/last/1/")
        worker.terminate()
        assert worker.wait(120) == 0
        reader.join()
        seen.look(f"worker {form}", "".join(output))
        assert "dead letter" in "".join(output) or form == "text"
    dead = f"{topic}.dlq"
    listed = seen.run("dlq", "list")
    assert all(error in listed for error in ("ValueError", "KeyError", "ExceptionGroup", "ValidationError"))
    seen.run("dlq", "list", topic, "-J")
    shown = seen.run("dlq", "show", topic)
    assert "mine.py:" in shown and '"amount":-1' in shown and "Expected `int`, got `str`" in shown
    seen.run("dlq", "show", topic, "-J")
    seen.run("dlq", "show", topic, "--raw", code=2)
    seen.run("dlq", "replay", topic, "--dry-run")
    for name in (
        topic,
        dead,
        f"{seen.app}-last-changelog",
        f"{seen.app}-by-email-changelog",
        f"{seen.app}-per-email-changelog",
        f"{seen.app}-per-email-repartition",
    ):
        assert seen.run("tail", name)
        seen.run("tail", name, "-J")
    seen.run(*program, "tables")
    for table in ("last", "by-email", "per-email", "per-person"):
        seen.run(*program, "tables", table)
        seen.run(*program, "tables", table, "-J")
    seen.run(*program, "tables", "last", "--key", "1")
    seen.run("lag", seen.app)
    seen.run("topics")
    shell.write("other.jsonl", order(77) + "\n")
    assert "only in" in seen.run("verify", f"topic://{topic}", "other.jsonl", code=1)
    seen.run("verify", f"topic://{topic}", "other.jsonl", "-J", code=1)
    seen.run("archive", topic, "--to", "archive")
    seen.run("archive", "check", "archive")
    seen.run("replay", "archive", "--to", topic, "--dry-run", code=None)
    assert "amount" in seen.run("replay", "orders.jsonl", "--to", topic, "--key", "email", "--dry-run")
    seen.run(*program, "replay", "orders.jsonl", "--to", topic, "--key", "email", "--dry-run")
    shell.write("bad.csv", f'email,amount\n{EMAIL},1\n{EMAIL},{PHONE}x\n"{EMAIL}\n')
    for policy in ("skip", "dead-letter", "fail"):
        arguments = ("replay", "bad.csv", "--to", topic, "--types", "amount=int", "--on-bad-line", policy)
        seen.run(*arguments, "-l", "debug", "--run-id", f"{seen.app}-{policy}", code=None)
    seen.run("dlq", "list", topic)
    seen.run("dlq", "show", topic, "-n", "100")
    shell.write("clean.py", "def failing(record):\n    raise ValueError(record.value.decode())\n")
    seen.run("replay", "orders.jsonl", "--to", topic, "--transform", "clean:failing", "-l", "debug", code=1)
    seen.run("replay", f"http://ann:{PASSWORD}@127.0.0.1:1/x.csv?token={TOKEN}", "--to", topic, code=None)
    seen.run(
        "run",
        "mine",
        "--input",
        f"{topic}=orders.jsonl",
        "--key",
        "email",
        "--table",
        "last",
        "--output",
        "last.csv",
        "-l",
        "debug",
        code=3,
    )
    assert EMAIL in (shell.folder / "last.csv").read_text(), "a result is whole"
    seen.run("runs")


def test_credentials_in_the_address_of_a_broker_are_refused_unseen(seen):
    servers = seen.shell.environment["KAFKA_BOOTSTRAP_SERVERS"]
    seen.run("tail", "orders", "-b", f"ann:{PASSWORD}@{servers}", code=2)
    text = APP.format(app=seen.app).replace(
        f'App("{seen.app}"', f'App("{seen.app}", broker="kafka://ann:{PASSWORD}@{servers}"'
    )
    seen.shell.write("mine.py", text)
    seen.run("-A", "mine", "describe")  # of the cluster that the environment names
    for command in ("worker", "lag"):
        assert "broker_credentials" in seen.run("-A", "mine", command, code=2)


def test_values_are_shown_on_purpose(seen):
    topic = f"{seen.app}-orders"
    assert seen.ran("-A", "mine", "send", topic, EMAIL, order(1))[0] == 0
    assert "***" in seen.run("tail", topic)
    assert EMAIL in seen.ran("tail", topic, "--show-private")[1]


def test_a_policy_of_fail_ends_the_worker_without_the_text(seen):
    text = APP.replace('name="keep")', 'name="keep", on_failure="fail")').format(app=seen.app)
    seen.shell.write("mine.py", text)
    seen.ran("-A", "mine", "send", f"{seen.app}-orders", EMAIL, order(-1))
    for form in ("text", "json"):
        failed = seen.run("-A", "mine", "worker", "-l", "debug", "--log-format", form, "--without-web", code=1)
        assert "ValueError" in failed


def reachable(port: int) -> object:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1) as answer:
            return answer.headers
    except OSError:
        return None
