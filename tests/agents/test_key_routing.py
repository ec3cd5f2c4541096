"""A key is answered by its owner, whichever worker is asked."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from anabranch.agents.runtime import runtime_of
from anabranch.agents.web.key_routing import FORWARDED
from anabranch.agents.web.worker_registry import Announcement, WorkerRegistry
from anabranch.topics.errors import AnabranchError
from anabranch.topics.topic_partition import TopicPartition
from yarl import URL

PARTITIONS = 4
KEYS = [f"k{i}" for i in range(20)] + ["7", "älter", "a b/c?d"]


@pytest.fixture
def program(lab, free_port):
    """Makes workers of one app that counts keys."""

    def make(name: str, topic: str, worker: str, **options: Any) -> Any:
        app = lab.app(name, worker=worker, web_enabled=True, web_port=free_port(), **options)
        counts = app.Table("counts", default=int)

        @app.agent(app.topic(topic), name="count")
        async def count(stream):
            async for key, _ in stream.items():
                counts[key.decode()] += 1

        @app.page("/mine/{word}/")
        @app.table_route(table=counts, match_info="word")
        async def mine(web, request, word):
            return web.json({word: counts[word], "by": runtime_of(app).status.instance})

        return app

    return make


async def get(app: Any, *path: str, **headers: str) -> tuple[int, Any]:
    url = f"http://127.0.0.1:{app.conf.web_port}"
    async with aiohttp.ClientSession() as session:
        escaped = "/".join(quote(part, safe="") for part in path)
        async with session.get(URL(f"{url}/{escaped}/", encoded=True), headers=headers) as answer:
            return answer.status, await answer.json()


def settled(*apps: Any) -> bool:
    return all(runtime_of(app).status.owned and not runtime_of(app).status.rebalancing for app in apps)


async def announced(lab: Any, *apps: Any) -> None:
    """Every partition's owner is known to every worker."""

    async def known(app: Any, topic: str) -> bool:
        for partition in range(PARTITIONS):
            try:
                claim = await runtime_of(app).worker_registry.owner(TopicPartition(topic, partition))
            except AnabranchError:  # no worker has announced itself yet, so there is no topic
                return False
            owner = next((a for a in apps if any(at.partition == partition for at in runtime_of(a).status.owned)), None)
            if claim is None or owner is None or claim.url != str(runtime_of(owner).worker_registry.address):
                return False
        return True

    await lab.until(lambda: settled(*apps))
    topic = next(iter(runtime_of(apps[0]).status.owned)).topic
    async with asyncio.timeout(90):
        while not (settled(*apps) and all([await known(app, topic) for app in apps])):
            await asyncio.sleep(0.02)


async def test_any_worker_answers_for_every_key(lab, program) -> None:
    topic, name = lab.topic(PARTITIONS), lab.fresh("app")
    a, b = program(name, topic, "a"), program(name, topic, "b")
    lab.produce(topic, [(key, 1) for key in KEYS for _ in range(2)])
    async with lab.running(a, b):
        await announced(lab, a, b)
        await lab.caught_up(topic, a, b)
        mine = set(a.tables["counts"]), set(b.tables["counts"])
        assert mine[0] | mine[1] == set(KEYS)
        assert mine[0]
        assert mine[1]
        for app in (a, b):
            for key in KEYS:
                assert await get(app, "tables", "counts", key) == (200, 2), key
            assert (await get(app, "tables", "counts", "nobody"))[0] == 404
            assert (await get(app, "tables", "nothing", "k1"))[0] == 404
        # Views of the user's own with Faust's decorator find their worker, too.
        key = next(iter(mine[1]))
        assert await get(a, "mine", key) == (200, {key: 2, "by": runtime_of(b).status.instance})
        # What was handed on once is not handed on again.
        status, answer = await get(a, "tables", "counts", key, **{FORWARDED: "somebody"})
        assert status == 503
        assert answer["error"].endswith("is not here: rebalancing")
        assert await get(b, "tables", "counts", key, **{FORWARDED: "somebody"}) == (200, 2)


async def test_while_nobody_can_answer_it_is_said_why(lab, program) -> None:
    topic, name = lab.topic(PARTITIONS), lab.fresh("app")
    a, b = program(name, topic, "a"), program(name, topic, "b")
    lab.produce(topic, [(key, 1) for key in KEYS])
    async with lab.running(a):
        b_worker = await lab.started(b)
        await announced(lab, a, b)
        await lab.caught_up(topic, a, b)
        key = next(iter(b.tables["counts"]))
        assert await get(a, "tables", "counts", key) == (200, 1)
        await lab.kill(b, b_worker)
        status, answer = await get(a, "tables", "counts", key)
        assert status == 503
        assert "does not answer" in answer["error"]
        # It does not come back: its session ends, and what it had is answered here.
        await lab.until(lambda: len(runtime_of(a).status.owned) == PARTITIONS and settled(a))
        assert await get(a, "tables", "counts", key) == (200, 1)


async def test_who_leaves_is_not_asked_any_more(lab, program) -> None:
    topic, name = lab.topic(PARTITIONS), lab.fresh("app")
    a, b = program(name, topic, "a"), program(name, topic, "b")
    lab.produce(topic, [(key, 1) for key in KEYS])
    async with lab.running(a):
        async with lab.running(b):
            await announced(lab, a, b)
            await lab.caught_up(topic, a, b)
        await lab.until(lambda: len(runtime_of(a).status.owned) == PARTITIONS and settled(a))
        for key in KEYS:
            assert await get(a, "tables", "counts", key) == (200, 1)
        await announced(lab, a)


async def test_without_the_right_to_make_topics_a_worker_works_and_says_what_it_cannot_do(lab, program) -> None:
    topic, name = lab.topic(PARTITIONS), lab.fresh("app")
    a, b = (program(name, topic, worker, topic_allow_declare=False) for worker in "ab")
    lab.produce(topic, [(key, 1) for key in KEYS])
    async with lab.running(a, b):
        await lab.until(lambda: settled(a, b))
        await lab.caught_up(topic, a, b)
        key = next(iter(b.tables["counts"]))
        status, answer = await get(a, "tables", "counts", key)
        assert status == 503
        assert f"{name}-workers" in answer["error"]


@pytest.mark.parametrize(
    ("url", "host", "reachable"),
    [
        ("http://127.0.0.1:6066", "elsewhere", False),
        ("http://localhost:6066", "elsewhere", False),
        ("http://[::1]:6066", "elsewhere", False),
        ("http://10.0.0.7:6066", "elsewhere", True),
        ("http://node-7:6066", "elsewhere", True),
    ],
)
def test_a_worker_on_loopback_of_another_machine_is_not_reachable(url: str, host: str, reachable: bool) -> None:
    assert Announcement(url, host, {}).reachable is reachable


def test_the_topic_is_named_after_the_app(lab) -> None:
    app = lab.app(lab.fresh("app"))
    assert WorkerRegistry(runtime_of(app)).topic == f"{app.conf.id}-workers"
