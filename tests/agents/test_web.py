"""The worker's HTTP views: on loopback, answering from committed state."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import faust
import msgspec
import pytest

pytestmark = pytest.mark.memory_suffices(
    "test_tables_can_be_listed_looked_into_and_asked_for_a_key",
)


class Withdrawal(faust.Record, serializer="json"):
    user: str
    amount: int


class Total(msgspec.Struct):
    amount: int = 0
    orders: list[int] = []


@pytest.fixture
def port(free_port) -> int:
    return free_port()


async def get(port: int, path: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        text = await answer.text()
        return answer.status, msgspec.json.decode(text) if answer.content_type == "application/json" else text


async def test_tables_can_be_listed_looked_into_and_asked_for_a_key(lab, port) -> None:
    topic, app = lab.topic(2), lab.app(lab.fresh("app"), web_enabled=True, web_port=port)
    counts = app.Table("counts", default=int, help="how often")
    totals = app.Table("totals", default=Total)

    @app.agent(app.topic(topic), name="total")
    async def total(stream):
        async for value in stream:
            counts[f"k{value % 3}"] += 1
            entry = totals[f"k{value % 3}"]
            entry.amount += value
            entry.orders.append(value)

    lab.produce(topic, [(f"k{i % 3}", i) for i in range(6)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        assert await get(port, "/tables/") == (
            200,
            [{"table": "counts", "help": "how often", "keys": 3}, {"table": "totals", "help": "", "keys": 3}],
        )
        status, page = await get(port, "/tables/counts/")
        assert (status, page["partitions"], sorted(page["pairs"])) == (200, [0, 1], [["k0", 2], ["k1", 2], ["k2", 2]])
        assert await get(port, "/tables/counts/k1/") == (200, 2)
        assert await get(port, "/tables/totals/k1/") == (200, {"amount": 5, "orders": [1, 4]})
        assert await get(port, "/table/counts/k1/") == (200, 2), "Faust's own path"
        assert (await get(port, "/tables/counts/nobody/"))[0] == 404, "a default is no key"
        assert (await get(port, "/tables/nothing/k1/"))[0] == 404


async def test_keys_of_other_types_are_found_by_their_json(lab, port) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"), web_enabled=True, web_port=port)
    table, pages = app.Table("mixed"), app.SetTable("pages")
    typed = app.Table("typed", key_type=int, value_type=Withdrawal)

    @app.agent(app.topic(topic), name="filler")
    async def filler(stream):
        async for value in stream:
            table[7], table["7 days"], table[("a", 1)] = "int", "text", "pair"
            pages["ann"] |= {"b", "a", 7}
            typed[value] = Withdrawal(user="ann", amount=3)

    lab.produce(topic, [7])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        assert await get(port, "/tables/mixed/7/") == (200, "int")
        assert await get(port, "/tables/mixed/7%20days/") == (200, "text")
        assert await get(port, '/tables/mixed/["a",1]/') == (200, "pair")
        assert await get(port, "/tables/pages/ann/") == (200, ["a", "b", 7])
        assert (await get(port, "/tables/pages/"))[1]["pairs"] == [["ann", ["a", "b", 7]]]
        status, value = await get(port, "/tables/typed/7/")
        assert (status, value["user"], value["amount"]) == (200, "ann", 3)
        assert (await get(port, "/tables/typed/seven/"))[0] == 404


async def test_a_view_of_the_users_reads_tables_and_sends(lab, port, drain) -> None:
    target, app = lab.topic(1, "out"), lab.app(lab.fresh("app"), web_enabled=True, web_port=port)
    topic, out = lab.topic(), app.topic(target)
    totals = app.Table("totals", default=int)

    @app.agent(app.topic(topic), name="total")
    async def total(stream):
        async for value in stream:
            totals["all"] += value

    @app.page("/total/")
    async def page(web, request):
        await out.send(value="asked")
        return web.json({"all": totals["all"]})

    lab.produce(topic, [1, 2])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        assert await get(port, "/total/") == (200, {"all": 3})
    assert [m.value() for m in drain(target)] == [b'"asked"']


async def test_the_web_server_is_bound_to_loopback(lab, port) -> None:
    app = lab.app(lab.fresh("app"), web_enabled=True, web_port=port)
    # Any address of 127/8 reaches a server that is bound to all interfaces, on Linux.
    async with lab.running(app):
        (await asyncio.open_connection("127.0.0.1", port))[1].close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.2", port)


async def test_tables_can_be_kept_from_the_web(lab, port) -> None:
    app = lab.app(lab.fresh("app"), web_enabled=True, web_port=port, web_tables_enabled=False)
    async with lab.running(app):
        assert [(await get(port, path))[0] for path in ("/tables/", "/table/")] == [404, 404]


async def test_a_second_worker_of_this_machine_takes_another_port(lab, port) -> None:
    name = lab.fresh("app")
    first, second = (lab.app(name, worker=worker, web_enabled=True, web_port=port) for worker in "ab")
    async with lab.running(first), lab.running(second):
        assert first.conf.web_port == port != second.conf.web_port
        for app in (first, second):
            assert (await get(app.conf.web_port, "/tables/"))[0] == 200
