"""Keys and the partitions they belong to: what a worker warns of, and where a key is looked for over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from anabranch.agents.flows.aggregates import Count
from anabranch.agents.runtime import runtime_of
from anabranch.topics.partitioners import HashPartitioner, RangePartitioner
from yarl import URL

WARNING = "but records with that key belong to another partition"
WORDS = [f"{letter}{number}" for letter in "abcdefgh" for number in range(3)]


async def run_over(lab: Any, app: Any, topic: str, records: list[Any]) -> None:
    lab.produce(topic, records)
    async with lab.running(app):
        await lab.caught_up(topic, app)


@pytest.mark.parametrize(
    ("keyed", "kind", "options", "warned"),
    [
        ("by another field", "Table", {}, True),
        ("by another field", "Table", {"local": True}, False),
        ("by another field", "GlobalTable", {}, False),
        ("by another field", "SetTable", {}, True),
        ("by another field", "Table", {"ttl": 3600}, True),
        ("by the key", "Table", {}, False),
        ("by the key", "Table", {"ttl": 3600}, False),
        ("by a part of it", "Table", {}, False),
    ],
)
async def test_a_worker_warns_once_of_a_table_whose_keys_are_not_those_of_the_records(
    lab, caplog, keyed: str, kind: str, options: dict[str, Any], warned: bool
) -> None:
    topic, app = lab.topic(4), lab.app(lab.fresh("app"))
    table = getattr(app, kind)("totals", **({} if kind == "SetTable" else {"default": int}), **options)

    @app.agent(app.topic(topic, key_type=str))
    async def total(stream):
        async for key, word in stream.items():
            key = {"by the key": key, "by a part of it": (key, word)}.get(keyed, word)
            if kind == "SetTable":
                table[key].add(word)
            else:
                table[key] += 1

    await run_over(lab, app, topic, [(f"k{i}", word) for i, word in enumerate(map(repr, range(40)))])
    assert caplog.text.count(WARNING) == warned
    assert caplog.text.count("--key") == warned


async def test_tables_of_flows_are_keyed_by_what_they_are_keyed_by(lab, caplog) -> None:
    topic, app = lab.topic(4), lab.app(lab.fresh("app"))
    values = app.topic(topic)
    values.key_by("word").aggregate("by-word", n=Count())
    values.key_by(lambda value: (value["word"], value["n"])).aggregate("by-pair", n=Count())
    values.key_by("n").aggregate("by-number", n=Count())
    values.aggregate("by-own-key", n=Count())
    await run_over(lab, app, topic, [(f"k{i}", {"word": word, "n": i}) for i, word in enumerate(WORDS)])
    assert WARNING not in caplog.text


async def get(app: Any, key: str) -> tuple[int, Any]:
    url = f"http://127.0.0.1:{app.conf.web_port}/tables/counts/{quote(key, safe='')}/"
    async with aiohttp.ClientSession() as session, session.get(URL(url, encoded=True)) as answer:
        return answer.status, await answer.json()


async def test_keys_of_a_range_planned_topic_and_tuples_are_answered_by_any_worker(lab, free_port, record) -> None:
    ranged, hashed, name = lab.fresh("ranged"), lab.topic(3), lab.fresh("app")

    def program(worker: str) -> Any:
        app = lab.app(name, worker=worker, web_enabled=True, web_port=free_port())
        counts = app.Table("counts", default=int)

        @app.agent(app.topic(ranged, value_type=str, partitioner=RangePartitioner.parsed("c,f")), name="count")
        async def count(stream):
            async for word in stream:
                counts[word] += 1

        # Another topic with as many partitions, which an agent writes the same table from.
        @app.agent(app.topic(hashed, value_type=str), name="count-hashed")
        async def count_hashed(stream):
            async for word in stream:
                counts["hashed", word] += 1

        return app

    a, b = program("a"), program("b")
    async with lab.running(a, b):
        await lab.until(
            lambda: all(runtime_of(app).status.owned and not runtime_of(app).status.rebalancing for app in (a, b))
        )
        partitioner = RangePartitioner.parsed("c,f")
        assert runtime_of(a).partitioner_of(ranged, 3) == partitioner
        assert runtime_of(a).partitioner_of(hashed, 3) == HashPartitioner(3)
        lab.produce(ranged, [record(word, word, partition=partitioner.partition(word.encode())) for word in WORDS])
        lab.produce(hashed, [(str(("hashed", word)), word) for word in WORDS])
        await lab.caught_up(ranged, a, b)
        await lab.caught_up(hashed, a, b)
        assert all(app.tables["counts"] for app in (a, b)), "each has some of them"

        for app in (a, b):
            for word in WORDS:
                for key in (word, f'["hashed","{word}"]'):
                    async with asyncio.timeout(90):
                        while (answer := await get(app, key))[0] == 503:  # its owner is not announced yet
                            await asyncio.sleep(0.02)
                    assert answer == (200, 1), key
            assert (await get(app, "nobody"))[0] == 404
