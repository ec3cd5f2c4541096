"""Questions to a world: what agents answer, and what web views do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anabranch import App, World
from anabranch.topics.errors import BadRecord, Usage
from faust.web import View

sys.path.insert(0, str(Path(__file__).parent))
import world_shop as shop

Make = Callable[..., World]


def asked() -> App:
    app = App("asked")

    @app.agent(app.topic("numbers"), name="silent")
    async def silent(stream: Any) -> None:
        async for _ in stream:
            await asyncio.sleep(10)

    @app.agent(app.topic("words"), name="fails")
    async def fails(stream: Any) -> Any:
        async for word in stream:
            raise ValueError(word)
            yield word

    @app.agent(app.topic("slow"), name="slow")
    async def slow(stream: Any) -> Any:
        async for value in stream:
            await asyncio.sleep(10)
            yield value

    return app


def test_an_agent_that_answers_nothing_is_an_error_at_once() -> None:
    with World(asked) as world:
        assert world.ask("slow", 3) == 3
        with pytest.raises(Usage, match="silent has processed what it was asked, and has yielded no answer"):
            world.ask("silent", 3)
        with pytest.raises(BadRecord, match="agent fails failed at the question: ValueError: no"):
            world.ask("fails", "no")
        with pytest.raises(TimeoutError, match="slow has not answered within 5s"):
            world.ask("slow", 3, within="5s")


def test_ask(make: Make) -> None:
    world = make()
    assert world.ask("double", 21) == 42
    assert world.ask(shop.double, 4) == 8
    assert world.ask(world.module.double, 5) == 10


def views() -> App:
    app = App("views")
    orders = app.topic("orders", key_type=str)
    totals = app.Table("totals", default=int)

    @app.agent(orders, name="add")
    async def add(stream: Any) -> None:
        async for user, amount in stream.items():
            totals[user] += amount

    @app.page("/hello/{name}/")
    async def hello(view: Any, request: Any, name: str) -> Any:
        return view.json({"hello": name, "x": request.query.get("x"), "body": await request.text()})

    @app.page("/buy/")
    class Buy(View):
        async def post(self, request: Any) -> Any:
            asked = await request.json()
            await orders.send(key=asked["user"], value=asked["amount"])
            return self.json(asked)

    @app.page("/slow/")
    async def slow(view: Any, request: Any) -> Any:
        await asyncio.sleep(100)

    return app


def test_web_views() -> None:
    with World(views) as world:
        world.send("orders", 3, key="ann")
        assert world.get("/tables/totals/ann/").json == 3
        assert world.get("/tables/totals/bob/").status == 404
        assert world.get("/hello/ann/?x=1").json == {"hello": "ann", "x": "1", "body": ""}
        assert world.get("/nothing/").status == 404
        assert (world.get("/readyz").status, world.get("/healthz").text) == (200, "ok")
        assert "anabranch_worker_info" in world.get("/metrics").text
        assert world.post("/buy/", {"user": "ann", "amount": 4}).status == 200
        world.settle()
        assert world.table("totals") == {"ann": 7}
        with pytest.raises(TimeoutError, match="GET /slow/ has not answered within 60 s"):
            world.get("/slow/")
        with pytest.raises(Usage, match="a path begins with a slash"):
            world.get("tables")


def test_a_worker_asks_the_one_that_has_a_key() -> None:
    with World(views, workers=3) as world:
        users = [f"u{number}" for number in range(12)]
        for user in users:
            world.send("orders", 1, key=user)
        assert [world.get(f"/tables/totals/{user}/").json for user in users] == [1] * 12
        assert world.get("/tables/totals/nobody/").status == 404
        world.worker(0).kill()
        world.settle()
        assert [world.get(f"/tables/totals/{user}/").json for user in users] == [1] * 12
