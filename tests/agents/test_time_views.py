"""Event time of operators as workers tell it: `/time/`, `/metrics`, the status line and `anabranch time`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anabranch
from anabranch import Count, Tumbling, World
from anabranch.agents.runtime import runtime_of
from anabranch.replay.cli import time as command
from anabranch.replay.cli.worker_report import WorkerReport

OPERATOR = "by-user"


def program(id: str = "shop", **settings: Any) -> anabranch.App:
    app = anabranch.App(id, topic_partitions=2, **settings)
    sales = app.topic("sales", time="at", grace="2s", idle_after=None)
    sales.key_by("user").window(Tumbling("10s")).aggregate(OPERATOR, n=Count())
    return app


def sale(user: str, at_s: int) -> dict[str, Any]:
    return {"user": user, "at": at_s * 1000}


def test_the_view_says_which_partition_holds_an_operator_back_and_what_waits_for_it() -> None:
    with World(program) as world:
        for at_s in (3, 4, 25):
            world.send("sales", sale("ann", at_s), partition=0)
        first = world.get("/time/").json["operators"]
        assert [row["held_back_by"] for row in first] == [[["sales", 1]]] * 2
        assert [row["watermark_ms"] for row in first] == [None, None]
        assert sum(row["open"] for row in first) == 2
        assert {row["next_ms"] for row in first if row["open"]} == {10_000}
        for at_s in (5, 14, 6):
            world.send("sales", sale("bob", at_s), partition=1)
        then = world.get("/time/").json
        assert [row["held_back_by"] for row in then["operators"]] == [[["sales", 1]]] * 2
        assert [row["watermark_ms"] for row in then["operators"]] == [12_000] * 2
        assert all(row["since_ms"] for row in then["operators"])
        assert then["late"] == [{"operator": OPERATOR, "reason": "late", "records": 1}]
        world.advance("20s")
        metrics = world.get("/metrics").text
        (held,) = [line for line in metrics.splitlines() if line.startswith("anabranch_held_back_seconds{")]
        assert held.startswith('anabranch_held_back_seconds{by="sales[1]",operator="by-user"} ')
        assert float(held.rsplit(" ", 1)[1]) >= 20
        line = WorkerReport(runtime_of(world.app), "shop", embedded=False, brief=True)._event_time()
        assert line == ", watermark 1970-01-01T00:00:12Z (by-user)"


def test_the_view_and_the_metrics_have_the_timers_of_agents() -> None:
    def make() -> anabranch.App:
        app = anabranch.App("shop", topic_partitions=1)

        @app.agent(app.topic("sales", time="at", grace="2s", idle_after=None), name="watch")
        async def watch(stream):
            async for sale in stream:
                app.at(sale["at"] + 5_000, key=sale["user"], name="late")

        @watch.on_timer("late")
        async def late(timer): ...

        return app

    with World(make) as world:
        for user, at_s in (("ann", 1), ("bob", 2), ("cid", 9)):
            world.send("sales", sale(user, at_s))
        ((row,), late, waiting) = world.get("/time/").json.values()
        assert row == {
            "operator": "watch-timers",
            "partition": 0,
            "watermark_ms": 7_000,
            "held_back_by": [["sales", 0]],
            "since_ms": None,
            "open": 1,
            "next_ms": 14_000,
        }
        assert late == waiting == []
        metrics = world.get("/metrics").text
        assert 'anabranch_timers{operator="watch-timers"} 1.0' in metrics
        assert 'anabranch_fired_timers_total{agent="watch"} 2.0' in metrics
        assert 'anabranch_open_windows{operator="watch-timers"}' not in metrics


async def test_the_command_asks_the_workers_at_their_web_ports(lab, free_port, capsys) -> None:
    app = lab.app(lab.fresh("app"), web_enabled=True, web_port=free_port())
    topic = lab.topic(1)
    app.topic(topic, time=lambda value: value, grace=0).window(Tumbling("10s")).aggregate(OPERATOR, n=Count())
    lab.produce(topic, [("a", 1_000), ("a", 2_000)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        answers, failures = await command._ask_workers(runtime_of(app))
    assert failures == []
    ((row,),) = [answer["operators"] for answer in answers]
    assert (row["operator"], row["watermark_ms"], row["open"], row["next_ms"]) == (OPERATOR, 2_000, 1, 10_000)
    waiting = {"partition": ["sales", 1], "waits_for": ["sales", 3], "ahead_ms": 7_800_000, "since_ms": 0, "records": 5}
    command._show([row], Counter({(OPERATOR, "late"): 2}), [waiting, waiting | {"ahead_ms": None, "records": 1}])
    shown = capsys.readouterr().out
    assert "1970-01-01T00:00:02Z" in shown
    assert f"{topic}[0]" in shown
    assert "by-user: 2 late records" in shown
    assert "sales[1] waits for sales[3], 2.2 h behind it: for " in shown
    assert "with 5 records" in shown
    assert "sales[1] waits for sales[3], which has no time yet: for " in shown
