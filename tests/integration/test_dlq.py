"""`anabranch dlq` by command: list, show and re-publish dead letters, which are processed after a fix."""

from __future__ import annotations

import json

APP = """
import anabranch
app = anabranch.App("{app}", topic_partitions=1)
orders = app.topic("{app}-orders", value_type=int)
total = app.Table("total", default=int)

@app.agent(orders)
async def add(stream):
    async for amount in stream:
        if amount < {least}:
            raise ValueError("too little")
        total["all"] += amount
"""


def test_letters_are_listed_shown_put_back_and_processed_after_the_fix(shell, fresh, eventually):
    app = fresh("shop")
    topic = f"{app}-orders"
    shell.write("numbers.txt", "5\n-1\n7\n-2\nnone\n")
    assert shell.run("replay", "numbers.txt", "--to", topic, "--partitions", 1).returncode == 0
    shell.write("mine.py", APP.format(app=app, least=0))

    def letters() -> list[dict]:
        shown = shell.run("dlq", "list", topic, "-J").stdout.splitlines()
        return [found for found in map(json.loads, shown) if found["topic"] == f"{topic}.dlq"]

    worker = shell.fork("-A", "mine", "worker", "--without-web")
    eventually(lambda: sum(kind["dead_letters"] for kind in letters()) == 3, "three dead letters")
    worker.terminate()
    assert worker.wait(120) == 0
    assert {(kind["agent"], kind["reason"], kind["error"], kind["dead_letters"]) for kind in letters()} == {
        ("mine.add", "agent", "ValueError", 2),
        ("mine.add", "decode", "DecodeError", 1),
    }

    one = json.loads(shell.run("dlq", "show", topic, "--match", "-1", "-J").stdout)
    assert (one["value"], one["error"], one["agent"], one["app_version"], one["republished"]) == (
        "-1",
        "ValueError: too little",
        "mine.add",
        "1",
        False,
    )
    assert "too little" in shell.run("dlq", "show", topic, "--reason", "agent").stdout
    assert shell.run("dlq", "show", topic, "--reason", "decode", "--raw").stdout == "none\n"

    shell.write("mine.py", APP.format(app=app, least=-10))
    dry = shell.run("dlq", "replay", topic, "--agent", "mine.add", "--reason", "agent", "--dry-run").stdout
    assert "would re-publish 2 records" in dry
    republish = shell.run("dlq", "replay", topic, "--reason", "agent").stdout
    assert "re-published 2 records" in republish
    assert f"2 → {app}-mine.add-retry, read only by agent mine.add of app {app}" in republish
    again = shell.run("dlq", "replay", topic, "--reason", "agent").stdout
    assert "re-published 0 records" in again
    assert "2 re-published earlier" in again
    worker = shell.fork("-A", "mine", "worker", "--without-web")

    def total() -> int:
        rows = shell.run("-A", "mine", "tables", "total", "-J").stdout.splitlines()
        return sum(json.loads(row)["value"] for row in rows)

    eventually(lambda: total() == 9, "what was put back counts as well")
    worker.terminate()
    assert worker.wait(120) == 0
    assert sum(kind["dead_letters"] for kind in letters()) == 3

    narrow = shell.run("dlq", "list", topic, COLUMNS="80").stdout.splitlines()
    assert max(map(len, narrow)) < 80, "it fits a terminal of 80 columns"
    assert "ValueError at mine.py:11 in add" in "\n".join(narrow)
    assert "raised by agent mine.add, 2 re-published" in "\n".join(narrow)


def test_no_dead_letters_is_no_error(shell, fresh):
    name = fresh("nothing")
    for command in ("list", "show", "replay"):
        nothing = shell.run("dlq", command, name)
        assert nothing.returncode == 0, nothing.stderr
        assert f"no dead letters for topic {name}, which does not exist" in nothing.stdout
    as_json = shell.run("dlq", "show", name, "-J")
    assert (as_json.returncode, as_json.stdout) == (0, "")
