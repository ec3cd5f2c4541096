"""A record with a header name that is not UTF-8 is a dead letter of its own, whatever its agent asks for."""

from __future__ import annotations

from typing import Any

import pytest

RAW = b'{"user":"raw","amount":1}'


def adder(app: Any, topic: str, how: str, **options: Any) -> None:
    table = app.Table("totals", default=int)

    def add(value: Any) -> None:
        table[value["user"]] += value["amount"]

    async def run(stream: Any) -> None:
        if how == "events":
            async for event in stream.events():
                assert dict(event.headers or {}).get("trace") in (None, b"0")
                add(event.value)
        elif how in ("batches", "take"):
            async for values in stream.batches() if how == "batches" else stream.take(4, within=0.05):
                for value in values:
                    add(value)
        else:
            async for value in stream:
                add(value)

    more = {"concurrency": 2} if how == "concurrency" else {}
    app.agent(app.topic(topic), name="adder", **more, **options)(run)


def good(record: Any) -> list[Any]:
    return [record({"user": f"u{n}", "amount": 1}, f"u{n}", 1_000, [("trace", b"0")]) for n in range(3)]


@pytest.mark.parametrize("how", ["values", "events", "batches", "take", "concurrency"])
async def test_it_is_one_dead_letter_without_headers_and_its_neighbours_count(
    lab, record, drain, table_of, send_with_unreadable_header, how: str
) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    adder(app, topic, how)
    lab.produce(topic, good(record))
    send_with_unreadable_header(topic, RAW)
    send_with_unreadable_header(topic, RAW * 20)  # as large as a packed batch may be
    lab.produce(topic, good(record))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "totals") == {"u0": 2, "u1": 2, "u2": 2}
    found = drain(f"{topic}.dlq")
    assert [letter.value() for letter in found] == [RAW, RAW * 20]
    said = [dict(letter.headers()) for letter in found]
    assert {"trace"}.isdisjoint(said[0])
    assert [headers["anabranch-source"] for headers in said] == [f"{topic}[0]@3".encode(), f"{topic}[0]@4".encode()]
    assert {headers["anabranch-reason"] for headers in said} == {b"decode"}
    assert b"not UTF-8" in said[0]["anabranch-error"]


async def test_with_the_policy_fail_the_worker_stops_and_names_it(lab, record, send_with_unreadable_header) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    adder(app, topic, "values", on_failure="fail")
    lab.produce(topic, good(record))
    send_with_unreadable_header(topic, RAW)
    assert f"{topic}[0]@3" in str(await lab.stopped_by(app))


async def test_a_global_table_and_a_restore_read_past_it(lab, record, table_of, send_with_unreadable_header) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    first, again = (lab.app(name, worker=worker) for worker in "ab")
    for app in (first, again):
        app.GlobalTable("rates", default=int)
        adder(app, topic, "values")
    lab.produce(topic, good(record))
    async with lab.running(first):
        await lab.caught_up(topic, first)
    for table in ("rates", "totals"):
        send_with_unreadable_header(f"{name}-{table}-changelog", b"7", key=b'"raw"')
    async with lab.running(again):
        assert table_of(again, "totals") == {"u0": 1, "u1": 1, "u2": 1, "raw": 7}
        assert again.tables["rates"]["raw"] == 7
