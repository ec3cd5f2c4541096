"""`anabranch tables`: the number of keys of tables and of their partitions, and rows in an order."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anabranch.replay.cli.tables import TableView, show_tables
from anabranch.topics.errors import Usage


def program(app: Any, topic: str) -> None:
    totals, empty = app.Table("totals"), app.Table("empty", help="nothing yet")

    @app.agent(app.topic(topic), name="total")
    async def total(stream: Any) -> None:
        async for order in stream:
            totals[order["user"]] = {"n": order["n"], "name": order.get("name")}
            empty.get("x")


async def filled(lab) -> Any:
    topic, name = lab.topic(3), lab.fresh("shop")
    app = lab.app(name, topic_partitions=3)
    program(app, topic)
    amounts = {"ann": 5, "bob": 30, "cyd": None, "dan": 4}
    lab.produce(topic, [(user, {"user": user, "n": n, "name": user.upper()}) for user, n in amounts.items()])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    again = lab.app(name, topic_partitions=3)
    program(again, topic)
    return again


def printed(capsys, app: Any, name: str | None, **view: Any) -> list[Any]:
    show_tables(app, name, TableView(as_json=True, **view))
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


async def test_rows_are_sorted_by_a_column_and_those_without_a_value_are_last(lab, capsys) -> None:
    app = await filled(lab)

    def users(**view: Any) -> list[str]:
        return [row["key"] for row in printed(capsys, app, "totals", **view)]

    assert users() == ["ann", "bob", "cyd", "dan"]
    assert users(desc=True) == ["dan", "cyd", "bob", "ann"]
    assert users(sort="n") == ["dan", "ann", "bob", "cyd"]
    assert users(sort="n", desc=True, most=2) == ["bob", "ann"]
    assert users(sort="n", desc=True) == ["bob", "ann", "dan", "cyd"]
    assert users(sort="name", desc=True)[0] == "dan"
    with pytest.raises(Usage, match=r"totals has no column nam\n  hint: did you mean name\?"):
        users(sort="nam")
    show_tables(app, "totals", TableView(sort="n", desc=True, most=1))
    shown = capsys.readouterr().out
    assert "BOB" in shown and "ANN" not in shown and "4 keys" in shown


async def test_keys_are_counted_by_table_and_by_partition(lab, capsys) -> None:
    app = await filled(lab)
    totals, empty = printed(capsys, app, None)
    assert (totals["keys"], len(totals["partitions"]), sum(totals["partitions"])) == (4, 3, 4)
    assert (empty["keys"], empty["partitions"]) == (0, [0, 0, 0])
    assert [row["keys"] for row in printed(capsys, app, "totals", counts=True)] == totals["partitions"]
    show_tables(app, None, TableView())
    assert "nothing yet" in capsys.readouterr().out
    show_tables(app, "totals", TableView(counts=True))
    assert "4 keys in 3 partitions" in capsys.readouterr().out


@pytest.mark.parametrize(
    "view", [{"key": "a", "sort": "n"}, {"digest": True, "counts": True}, {"counts": True, "desc": True}]
)
def test_options_that_contradict_each_other_are_refused(view) -> None:
    with pytest.raises(Usage, match="shows no rows"):
        TableView(**view)
