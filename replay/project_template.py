"""The files of a new project: an app with a table and an output topic, its test, sample records, settings."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path

from ..topics.errors import Usage

__all__ = ["create_project"]

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,99}")

_APP = '''"""The app {name}: adds up orders by user, and passes large ones on."""

import msgspec
from anabranch import App, Stream


class Order(msgspec.Struct):
    user: str
    amount: int


app = App("{name}")
orders = app.topic("orders", value_type=Order, partitions=4)
large = app.topic("large-orders", value_type=Order, partitions=4)
totals = app.Table("totals", default=int, help="amount by user")


@app.agent(orders)
async def total(stream: Stream[Order]) -> None:
    async for order in stream:
        totals[order.user] += order.amount
        if order.amount >= 100:
            await large.send(key=order.user, value=order)
'''

_TEST = '''"""The app on a Kafka in memory: no broker, no waiting."""

from anabranch import World

from {module} import app


def test_orders_are_added_up_and_large_ones_are_passed_on() -> None:
    with World(app) as world:
        for user, amount in (("ann", 3), ("bob", 150), ("ann", 4)):
            world.send("orders", {{"user": user, "amount": amount}}, key=user)
        world.settle()
        assert world.table("totals") == {{"ann": 7, "bob": 150}}
        assert world.topic("large-orders").values == [{{"user": "bob", "amount": 150}}]


def test_an_order_without_an_amount_is_a_dead_letter() -> None:
    with World(app) as world:
        world.send("orders", {{"user": "ann"}}, key="ann")
        world.settle()
        assert world.table("totals") == {{}}
        assert len(world.dead_letters("orders")) == 1
'''

_README = """# {name}

A stream processor with anabranch. `{module}.py` is the app.

Test it, without a broker:

    pip install pytest
    pytest

Run it over a file of history, and look at the result:

    anabranch run --input orders.jsonl --key user --output totals.csv
    cat totals.csv

Run it on live records. Without a cluster in `anabranch.toml`, a Kafka of this folder starts in the background:

    anabranch worker                  # with --reload, it restarts when the program changes

In another terminal:

    anabranch send orders ann '{{"user": "ann", "amount": 3}}'
    anabranch tables                  # the totals
    anabranch tail large-orders       # the output
    anabranch describe                # what the app is made of
    anabranch reset                   # begin anew; shows first what it would delete
"""

_SAMPLE = """{"user": "ann", "amount": 3}
{"user": "bob", "amount": 150}
{"user": "cyd", "amount": 12}
{"user": "ann", "amount": 4}
{"user": "bob", "amount": 1}
"""

_CONFIG = """# What anabranch's commands use here; `anabranch config` shows it with its origins.
app = "{module}"
# bootstrap-servers = "kafka:9092"    # default: a Kafka of this folder

# [options]                           # librdkafka's options for that cluster
# security.protocol = "SSL"
"""

_IGNORED = """.anabranch/
__pycache__/
.pytest_cache/
totals.csv
"""


def create_project(name: str, parent: Path) -> list[Path]:
    """Write a new project to the folder `parent / name`; return its files.

    Raises:
        Usage: the name cannot be that of an app and of a module, or the folder exists.
    """
    module = name.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(module):
        raise Usage(
            f"{name!r} cannot be the name of a project",
            hint="small letters, digits, - and _, with a letter first: it names the app and its module",
        )
    folder = parent / name
    if folder.exists():
        raise Usage(f"{folder} exists", hint="nothing is overwritten: choose another name, or move it away")
    if importlib.util.find_spec(module) is not None:
        raise Usage(f"there is a Python module {module} already", hint="the app would hide it: choose another name")
    folder.mkdir()
    files = {
        f"{module}.py": _APP.format(name=name),
        f"test_{module}.py": _TEST.format(module=module),
        "orders.jsonl": _SAMPLE,
        "anabranch.toml": _CONFIG.format(module=module),
        "README.md": _README.format(name=name, module=module),
        ".gitignore": _IGNORED,
    }
    for file, text in files.items():
        (folder / file).write_text(text)
    return [folder / file for file in files]
