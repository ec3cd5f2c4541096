"""`anabranch tables`: the number of keys of tables and of their partitions, and rows in an order."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from anabranch import Count, Top, Tumbling
from anabranch.replay.cli.tables import TableView, show_tables
from anabranch.replay.table_reader import TableReader, find_table
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


async def test_windows_are_shown_with_readable_times_and_found_by_their_key(lab, capsys) -> None:
    topic, name = lab.topic(1), lab.fresh("shop")

    def made() -> Any:
        app = lab.app(name, topic_partitions=1)
        app.topic(topic).key_by("user").window(Tumbling("1h"), grace="1m").aggregate(
            "hours", n=Count(), largest=Top("n", 1)
        )
        return app

    app = made()
    lab.produce(topic, [("ann", {"user": "ann", "n": 5}), ("bob", {"user": "bob", "n": 7})])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        reader = TableReader(lab.cluster, find_table(app, "hours"))
        await lab.until(lambda: len(reader.read()) == 2, "both windows")
    again = made()
    show_tables(again, "hours", TableView())
    shown = capsys.readouterr().out
    assert len(re.findall(r"20\d\d-\d\d-\d\dT\d\d:00:00Z", shown)) == 4
    assert '[{"user":"ann","n":5}]' in shown
    (row,) = (row for row in printed(capsys, again, "hours") if row["key"] == "bob")
    assert row["end"] - row["start"] == 3_600_000
    show_tables(again, "hours", TableView(key="bob"))
    between, *value = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"20\d\d-\S+:00:00Z … 20\d\d-\S+:00:00Z", between)
    assert json.loads("".join(value))["n"] == 1


@pytest.mark.parametrize(
    "view", [{"key": "a", "sort": "n"}, {"digest": True, "counts": True}, {"counts": True, "desc": True}]
)
def test_options_that_contradict_each_other_are_refused(view) -> None:
    with pytest.raises(Usage, match="shows no rows"):
        TableView(**view)
