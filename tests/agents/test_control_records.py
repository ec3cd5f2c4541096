"""Control records reach no agent, table or result where the app has made the topic; elsewhere they are records."""

from __future__ import annotations

import re

from anabranch.topics.control_records import CONTROL_KEY, ControlRecord
from anabranch.topics.headers import CONTROL_HEADER

CONTROL = ControlRecord("mark", {"t": {"orders:0": 5}})


def control(record, partition: int = 0):
    return record(CONTROL.encoded(), CONTROL_KEY, headers=list(CONTROL.headers), partition=partition)


async def test_in_a_repartition_topic_agents_get_past_them_and_never_see_them(lab, record, table_of) -> None:
    source, name, seen = lab.topic(2), lab.fresh("app"), []
    own = re.compile(f"{name}-.*-repartition")

    def app(worker: str):
        made = lab.app(name, worker=worker)
        table = made.Table("by_digit", default=int, partitions=2)

        @made.agent(made.topic(source, value_type=str), name="count")
        async def count(stream):
            async for line in stream.group_by(lambda line: line[-1], name="digit", partitions=2):
                seen.append(line)
                table[line[-1]] += 1

        return made

    first = app("a")
    async with lab.running(first):
        lab.produce(source, [f"line {n}" for n in range(40)])
        (found,) = await lab.until(lambda: [topic for topic in lab.admin.partitions() if own.fullmatch(topic)])
        await lab.until(lambda: len(seen) == 40)
        # Between records, twice in a row; and at the end, where nothing behind them moves the offset.
        lab.produce(found, [control(record), control(record)])
        lab.produce(source, [f"line {n}" for n in range(40, 60)])
        await lab.until(lambda: len(seen) == 60)
        lab.produce(found, [control(record, 1), control(record)])
        await lab.caught_up(found, first)
    assert sorted(seen) == sorted(f"line {n}" for n in range(60))
    counted = {str(digit): 6 for digit in range(10)}
    assert table_of(first, "by_digit") == counted

    # Another worker, with nothing on its disk: it restores the table and begins behind the control records.
    second = app("b")
    async with lab.running(second):
        lab.produce(source, ["line 0"])
        await lab.until(lambda: len(seen) == 61)
        await lab.until(lambda: table_of(second, "by_digit") == counted | {"0": 7})


async def test_in_a_user_s_topic_the_same_is_an_ordinary_record_and_its_copies_have_no_such_header(
    lab, record, drain
) -> None:
    source, out, through, seen = lab.topic(), lab.topic(1, "out"), lab.topic(1, "through"), []
    app = lab.app(lab.fresh("app"))

    @app.agent(app.topic(source, key_type=bytes, value_type=bytes), name="forwards")
    async def forwards(stream):
        async for event in stream.events():
            seen.append((event.key, event.headers))
            await event.forward(app.topic(out, key_type=bytes, value_type=bytes))
            await event.send(app.topic(out, key_type=bytes, value_type=bytes))

    @app.agent(app.topic(source, key_type=bytes, value_type=bytes), name="passes")
    async def passes(stream):
        async for _ in stream.through(through):
            pass

    @app.agent(app.topic(source, value_type=bytes), name="fails")
    async def fails(stream):
        async for _ in stream:
            raise ValueError("none of ours")

    odd = record(b"v", CONTROL_KEY, headers=[("trace", b"1"), *CONTROL.headers])
    lab.produce(source, [odd])
    async with lab.running(app):
        await lab.caught_up(source, app)
    assert seen[-1] == (CONTROL_KEY, {"trace": b"1", CONTROL_HEADER: b"mark"})
    copies = [*drain(out), *drain(through)]
    assert [(m.key(), m.value(), m.headers()) for m in copies] == [(CONTROL_KEY, b"v", [("trace", b"1")])] * 3
    (letter,) = drain(f"{source}.dlq")
    assert [name for name, _ in letter.headers()][:2] == ["trace", "anabranch-reason"]
