"""Code that takes a mapping sees the whole table; code that takes a dict alone raises TypeError."""

from __future__ import annotations

import copy
import json
import pickle
from collections import ChainMap, Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
import pytest
from anabranch.agents.tables.table import Table
from faust.utils import json as faust_json
from table_partitions import Steps, commit, made, open_at

CONTENT = {"committed": 1, "moved": 2, "fresh": 3}

WHOLE: dict[str, Callable[[Any], Any]] = {
    "json.dumps, by a hook": lambda table: json.loads(json.dumps([{"t": table}], default=dict))[0]["t"],
    "Faust's JSON": lambda table: faust_json.loads(faust_json.dumps({"t": table}))["t"],
    "msgspec.json, by a hook": lambda table: msgspec.json.decode(msgspec.json.encode(table, enc_hook=dict)),
    "dict": dict,
    "stars": lambda table: {**table},
    "arguments": lambda table: (lambda **given: given)(**table),
    "or": lambda table: table | {},
    "or the other way round": lambda table: {} | table,
    "copy": lambda table: table.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda table: pickle.loads(pickle.dumps(table)),
    "update": lambda table: (found := {}).update(table) or found,
    "an ordered dict": lambda table: dict(OrderedDict(table)),
    "a counter": lambda table: dict(Counter(table)),
    "a chain": lambda table: dict(ChainMap(table)),
    "a comprehension": lambda table: {key: table[key] for key in table},
    "items": lambda table: dict(table.items()),
    "sorted": lambda table: {key: CONTENT[key] for key in sorted(table)},
    "list": lambda table: {key: CONTENT[key] for key in list(table)},
    "a pattern": lambda table: rest_of(table),
    "a copy that is encoded": lambda table: msgspec.json.decode(msgspec.json.encode(table.copy())),
}

REFUSED: dict[str, Callable[[Any], Any]] = {
    "json.dumps": json.dumps,
    "json.dumps, inside": lambda table: json.dumps([{"t": table}], indent=1),
    "json.dumps, by hand": lambda table: "".join(json.JSONEncoder().iterencode(table)),
    "msgspec.json": msgspec.json.encode,
    "msgspec.json, inside": lambda table: msgspec.json.encode({"t": [table]}),
    "msgspec.json, sorted": lambda table: msgspec.json.Encoder(order="sorted").encode(table),
    "msgspec.msgpack": msgspec.msgpack.encode,
    "msgspec.to_builtins": msgspec.to_builtins,
}


def rest_of(table: Any) -> Any:
    match table:
        case {**rest}:
            return rest


def filled(state: str) -> Table:
    table = made(int)
    open_at(table, "orders", 0)
    table["committed"] = 1
    commit(table)
    open_at(table, "orders", 0)
    table["moved"] = 2
    table.uncommitted.move_to_epoch()
    if state == "waiting":
        table.at_hand().defer("orders", Steps([{"fresh": 3}]))
        return table
    table["fresh"] = 3
    if state == "closed":
        commit(table)
    return table


@pytest.mark.parametrize("state", ["open", "closed", "waiting"])
@pytest.mark.parametrize("how", WHOLE)
def test_what_goes_by_a_dict_s_methods_sees_all_of_the_table(how: str, state: str) -> None:
    assert WHOLE[how](filled(state)) == CONTENT


@pytest.mark.parametrize("state", ["open", "closed", "waiting", "empty"])
@pytest.mark.parametrize("how", REFUSED)
def test_encoders_that_know_dicts_alone_refuse_a_table(how: str, state: str) -> None:
    table = made(int) if state == "empty" else filled(state)
    with pytest.raises(TypeError, match=r"Table"):
        REFUSED[how](table)


def test_an_empty_table_is_an_empty_dict() -> None:
    table = made(int)
    for state in ("closed", "open"):
        assert (dict(table), len(table), bool(table)) == ({}, 0, False), state
        open_at(table, "orders", 0)


async def test_a_web_view_can_answer_with_a_table(lab, free_port) -> None:
    topic, app = lab.topic(1), lab.app(lab.fresh("app"), web_enabled=True, web_port=free_port())
    counts = app.Table("counts", default=int)

    @app.agent(app.topic(topic))
    async def count(stream):
        async for value in stream:
            counts[f"k{value}"] += value

    @app.page("/all/")
    async def everything(web, request):
        return web.json(counts)

    lab.produce(topic, range(3))
    async with lab.running(app):
        await lab.caught_up(topic, app)
        url = f"http://127.0.0.1:{app.conf.web_port}/all/"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            assert (answer.status, await answer.json()) == (200, {"k0": 0, "k1": 1, "k2": 2})
