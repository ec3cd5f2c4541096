"""Functions under `@app.command` are commands of the app."""

from __future__ import annotations

import pytest

APP = """
import asyncio
import msgspec
from anabranch import App
from faust.cli import argument, option

class Order(msgspec.Struct):
    user: str
    amount: int

app = App("{app}", web_enabled=False, topic_partitions=3)
orders = app.topic("{app}-orders", value_type=Order)
totals = app.Table("totals", default=int)
recent = app.Table("recent", ttl=3600)
everyone = app.GlobalTable("everyone", default=int)

@app.agent(orders)
async def total(stream):
    async for order in stream:
        totals[order.user] += order.amount
        recent[order.user] = order.amount
        everyone[order.user] = 1
        yield totals[order.user]

@app.command(argument("user"), option("--amount", type=int, default=1, help="How much."))
async def place_order(self, user: str, amount: int):
    '''Send an order of USER.

    And wait for it.
    '''
    assert self.app is app
    await orders.send(key=user, value=Order(user, amount))
    self.say(f"{{user}} ordered {{amount}}")

@app.command()
async def report():
    '''Show all totals.'''
    print(dict(totals.items()), totals["ann"], "zed" in totals, recent["ann"], dict(recent.items()), len(everyone))

@app.command()
async def ask():
    print("answer", await total.ask(Order("ann", 1), key="ann"))

@app.command()
def plain(self):
    '''Fail.'''
    totals["ann"] = 3

@app.command()
async def tail():
    '''Hidden.'''
"""


@pytest.fixture
def app(shell, fresh) -> str:
    name = fresh("shop")
    shell.write("mine.py", APP.format(app=name))
    return name


def test_commands_of_an_app_send_read_tables_and_ask_agents(shell, app, eventually):
    shown = shell.run("-A", "mine", "--help").stdout
    own = shown.split("Commands of mine:")[1]
    for words in ("place-order", "Send an order of USER.", "report", "(hidden: anabranch has one)"):
        assert words in own
    helped = shell.run("-A", "mine", "place-order", "--help").stdout
    assert "And wait for it." in helped and "How much." in helped and "--bootstrap-server" in helped
    done = shell.run("-A", "mine", "place-order", "ann", "--amount", "7")
    assert (done.returncode, done.stdout) == (0, "ann ordered 7\n"), done.stderr
    worker = shell.fork("-A", "mine", "worker")
    expected = "{'ann': 7} 7 False 7 {'ann': 7} 1\n"
    eventually(lambda: shell.run("-A", "mine", "report").stdout == expected, "the totals")
    assert shell.run("-A", "mine", "ask").stdout == "answer 8\n"
    worker.terminate()
    assert worker.wait(120) == 0
    assert shell.run("-A", "mine", "report").stdout.startswith("{'ann': 8}")


def test_mistakes_with_commands_of_an_app(shell, app):
    assert "did you mean report?" in shell.run("-A", "mine", "reprt").stderr
    assert "Missing argument 'USER'" in shell.run("-A", "mine", "place-order").stderr
    written = shell.run("-A", "mine", "plain")
    assert written.returncode != 0
    assert "totals" in written.stderr
    shell.write("broken.py", "import nothing_of_that_name")
    broken = shell.run("-A", "broken", "--help")
    assert broken.returncode == 0, broken.stderr
    assert "needs the module nothing_of_that_name" in " ".join(broken.stdout.split())
