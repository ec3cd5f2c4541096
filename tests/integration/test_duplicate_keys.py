"""A table whose keys are not the records' keys: commands that show the whole table refuse it with the reason."""

from __future__ import annotations

import csv
import json
from pathlib import Path

SHOP = """
import msgspec
from anabranch import App

class Order(msgspec.Struct):
    user: str
    amount: int

app = App("APP")
orders = app.topic("orders", value_type=Order, partitions=4)
totals = app.Table("totals", default=int, OPTIONS)

@app.agent(orders)
async def total(stream):
    async for order in stream:
        totals[order.user] += order.amount
"""


def write_shop(shell, app: str, options: str = "") -> None:
    shell.write("shop.py", SHOP.replace("APP", app).replace("OPTIONS", options))
    orders = [{"user": "ann" if i % 2 else "bob", "amount": 1} for i in range(20)]
    shell.write("twenty.jsonl", "".join(json.dumps(order) + "\n" for order in orders))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_without_its_key_is_an_error_that_shows_both_rows_and_names_the_option(shell, fresh) -> None:
    app, run_id = fresh("shop"), fresh()
    write_shop(shell, app)
    command = ["run", "shop", "--input", "twenty.jsonl", "--run-id", run_id, "-o", "out.csv"]
    for time in ("the first time", "started again"):
        done = shell.run(*command)
        assert done.returncode == 1, (time, done.stdout, done.stderr)
        assert "partition 0: bob = 5\n  partition 2: bob = 5\n" in done.stderr
        assert "--key" in done.stderr
        assert not (shell.folder / "out.csv").exists()
        assert "exactly once" not in done.stdout
    looked = shell.run("-A", "shop", "tables", "totals", "--run-id", run_id, "--digest")
    assert (looked.returncode, looked.stdout) == (1, "")
    assert "partition 2: bob = 5" in looked.stderr
    side = f"table://{app}-run-{run_id}/totals"
    verified = shell.run("verify", side, side)
    assert verified.returncode == 1
    assert 'partition 0: "bob" = 5\n  partition 2: "bob" = 5\n' in verified.stderr

    keyed = shell.run("run", "shop", "--input", "twenty.jsonl", "--key", "user", "-o", "out.csv")
    assert keyed.returncode == 0, keyed.stderr
    assert rows_of(shell.folder / "out.csv") == [{"key": "ann", "value": "10"}, {"key": "bob", "value": "10"}]


def test_content_that_is_meant_to_be_by_partition_says_in_which(shell, fresh) -> None:
    app, run_id = fresh("shop"), fresh()
    write_shop(shell, app, "local=True")
    done = shell.run("run", "shop", "--input", "twenty.jsonl", "--run-id", run_id, "-o", "out.csv")
    assert done.returncode == 0, done.stderr
    rows = rows_of(shell.folder / "out.csv")
    assert rows == [
        {"key": user, "partition": partition, "value": "5"}
        for user, where in (("ann", "13"), ("bob", "02"))
        for partition in where
    ]
    shown = shell.run("-A", "shop", "tables", "totals", "--run-id", run_id, "--key", "bob").stdout
    assert shown.split() == ["partition", "0", "5", "partition", "2", "5"]
    side = f"table://{app}-run-{run_id}/totals?local"
    assert shell.run("verify", side, side).returncode == 0
