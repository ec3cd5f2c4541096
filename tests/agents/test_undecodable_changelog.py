"""What a changelog holds and no type of its table can decode is named: at a restore, by agents, on the web."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from anabranch.agents.engine.settings import EngineSettings
from anabranch.replay.table_reader import TableReader
from anabranch.topics.errors import Stop

COUNT = 10


def program(lab: Any, name: str, topic: str, *, worker: str = "a", how: str = "Table", **options: Any) -> Any:
    """Sums by key."""
    app = lab.app(name, worker=worker, **options)
    made = {"ttl": 1e6} if how == "ttl" else {}
    totals = (app.GlobalTable if how == "GlobalTable" else app.Table)("totals", default=int, value_type=int, **made)

    @app.agent(app.topic(topic), name="total")
    async def total(stream):
        async for key, value in stream.items():
            totals[key.decode()] += value

    return app


async def spoiled(lab: Any, how: str, **options: Any) -> tuple[str, str, str, int]:
    """An app whose changelog holds a value and a key that are none: topic, app, changelog and offset of the value."""
    topic, name = lab.topic(), lab.fresh("app")
    app = program(lab, name, topic, how=how, **options)
    lab.produce(topic, [(f"k{n}", 1) for n in range(COUNT)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    changelog = f"{name}-totals-changelog"
    offset = lab.ends(changelog)[0]
    lab.produce(changelog, [('"k3"', b"garbage, and long enough for a time"), ("no key", b"\x00" * 7 + b"71")])
    return topic, name, changelog, offset


@pytest.mark.parametrize("how", ["Table", "GlobalTable", "ttl", "on disk"])
async def test_it_is_named_and_only_records_that_need_it_fail(lab, drain, caplog, free_port, how) -> None:
    options = {"store": "rocksdb://"} if how == "on disk" else {}
    topic, name, changelog, offset = await spoiled(lab, how, **options)
    app = program(lab, name, topic, how=how, web_enabled=True, web_port=free_port(), **options)
    async with lab.running(app):
        said = [r.getMessage() for r in caplog.records if "cannot be decoded" in r.getMessage()]
        named = f'table totals: the record of key "k3" in its changelog, {changelog}[0]@{offset},'
        assert any(named in s for s in said)
        assert any(f"{changelog}[0]@{offset + 1}" in s for s in said)
        assert all("hint: assign the key a new value" in s for s in said)
        lab.produce(topic, [(f"k{n}", 1) for n in range(COUNT)])
        await lab.caught_up(topic, app)
        for path in ("totals/k3", "totals"):
            url = f"http://127.0.0.1:{app.conf.web_port}/tables/{path}/"
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                assert answer.status == 500
                assert "table totals: the content at key" in await answer.text()
        assert app.tables["totals"]["k4"] == 2
    (letter,) = drain(f"{topic}.dlq")
    assert letter.key() == b"k3"
    assert "table totals: the content at key 'k3' cannot be decoded as int" in str(letter.headers())
    with pytest.raises(Stop) as stop:
        TableReader(lab.cluster, app.tables["totals"]).read().items()
    assert f'{changelog}[0]@{offset}, key "k3": its value is not int' in str(stop.value)
    if how != "ttl":  # there, its time is long past
        assert f"{changelog}[0]@{offset + 1}, key no key: its key is not" in str(stop.value)


async def test_a_warm_copy_names_it_as_well(lab, caplog) -> None:
    settings = EngineSettings(session_timeout_ms=6_000, standby_replicas=1)
    topic, name, changelog, offset = await spoiled(lab, "Table")
    a, b = (program(lab, name, topic, worker=w, settings=settings) for w in "ab")
    async with lab.running(a):
        caplog.clear()
        async with lab.running(b):
            await lab.until(lambda: f"{changelog}[0]@{offset}" in caplog.text, "the copy is read")


@pytest.mark.needs_real_kafka("the command reaches Kafka by its address")
async def test_the_command_says_it_without_a_traceback(lab, tmp_path, monkeypatch) -> None:
    from anabranch.replay.cli.entry import cli
    from click.testing import CliRunner

    _, name, changelog, offset = await spoiled(lab, "Table")
    (tmp_path / "spoiled_app.py").write_text(
        f"from anabranch import App\napp = App({name!r})\ntotals = app.Table('totals', default=int, value_type=int)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    told = CliRunner().invoke(cli, ["-A", "spoiled_app", "tables", "totals", "-b", lab.cluster.bootstrap_servers])
    assert told.exit_code != 0
    assert isinstance(told.exception, Stop | SystemExit)
    assert f"{changelog}[0]@{offset}" in f"{told.output}{told.exception}"
