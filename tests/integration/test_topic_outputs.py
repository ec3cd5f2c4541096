"""`run --output TOPIC=FILE` writes a topic that agents send to."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from anabranch.replay.topic_result import parse_outputs
from anabranch.topics.errors import Usage

APP = """
import msgspec
from anabranch import App

class Order(msgspec.Struct):
    user: str
    amount: int

app = App("{app}", topic_partitions=2)
orders = app.topic("orders", value_type=Order)
large = app.topic("large", value_type=Order)
notes = app.topic("notes", value_type=str)
totals = app.Table("totals", default=int)

@app.agent(orders)
async def total(stream):
    async for order in stream:
        totals[order.user] += order.amount
        if order.amount >= 100:
            await large.send(key=order.user, value=order)
"""


def test_a_run_writes_its_table_and_its_topics(shell, fresh):
    app, run_id = fresh("shop"), fresh()
    shell.write("mine.py", APP.format(app=app))
    amounts = [("ann", 3, 1), ("bob", 150, 2), ("cyd", 200, 3), ("ann", 4, 4)]
    lines = [json.dumps({"user": user, "amount": n, "at": f"2013-01-01T10:00:0{s}Z"}) for user, n, s in amounts]
    shell.write("orders.jsonl", "\n".join(lines) + "\n")
    command = ["run", "mine", "--input", "orders.jsonl", "--key", "user", "--time", "at", "--run-id", run_id]
    files = ["-o", "totals.csv", "-o", "large=large.csv", "-o", "notes=out/notes.jsonl"]
    for _ in "first", "again":
        ran = shell.run(*command, *files)
        assert ran.returncode == 0, ran.stderr
        assert "wrote 2 records of large to large.csv" in ran.stdout
        assert (shell.folder / "totals.csv").read_text() == "key,value\nann,7\nbob,150\ncyd,200\n"
        assert list(csv.reader((shell.folder / "large.csv").open())) == [
            ["key", "time", "user", "amount"],
            ["bob", "2013-01-01T10:00:02Z", "bob", "150"],
            ["cyd", "2013-01-01T10:00:03Z", "cyd", "200"],
        ]
        assert (shell.folder / "out/notes.jsonl").read_text() == ""
    for wrong, words in (
        (["-o", "larg=x.csv"], "did you mean large?"),
        (["-o", "large=x.abc"], "unknown suffix"),
        (["-o", "large=x.csv", "--into-live"], "omit --into-live"),
    ):
        refused = shell.run(*command[:-2], *wrong)
        assert (refused.returncode, words in refused.stderr) == (2, True), refused.stderr


def test_outputs_are_files_of_the_table_and_of_topics():
    assert parse_outputs(["a.csv", "large=b.csv"]) == (Path("a.csv"), {"large": Path("b.csv")})
    assert parse_outputs(["./year=2013/a.csv"]) == (Path("year=2013/a.csv"), {})
    assert parse_outputs([]) == (None, {})
    for wrong in (["a.csv", "b.csv"], ["t=a.csv", "t=b.csv"]):
        with pytest.raises(Usage):
            parse_outputs(wrong)
