"""Faust's `agent.test_context()`: one agent on a Kafka in memory, in the test's own event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import faust
import msgspec
import pytest
from anabranch import App, Stream, current_event
from anabranch.topics.errors import Stop, Usage


class Sale(faust.Record, serializer="json"):
    shop: str
    price: int


class Visit(msgspec.Struct):
    page: str
    seconds: int = 0


app = App("context", broker="kafka://nowhere.invalid:9092", datadir="/nonexistent")
sales = app.topic("sales", value_type=Sale, partitions=3)
visits = app.topic("visits", key_type=str, value_type=Visit)
words = app.topic("words", value_type=str)
shouted = app.topic("shouted", value_type=str)
count_by_shop = app.Table("count-by-shop", default=int)
seconds_by_page = app.Table("seconds-by-page", default=int)
called = AsyncMock()


@app.agent(sales)
async def counted(stream: Stream[Sale]) -> AsyncIterator[Sale]:
    async for sale in stream.group_by(Sale.shop):
        count_by_shop[sale.shop] += 1
        yield sale


@app.agent(visits)
async def measured(stream: Stream[Visit]) -> None:
    async for visit in stream:
        if visit.seconds < 0:
            seconds_by_page[visit.page] = 1_000_000
            await called(visit.page)
            raise ValueError(f"{visit.seconds} seconds")
        seconds_by_page[visit.page] += visit.seconds


@app.agent(words, sink=[shouted, called])
async def loud(stream: Stream[str]) -> AsyncIterator[str]:
    async for word in stream:
        if word:
            yield f"{word}!"


@app.agent(words)
async def pairs(stream: Stream[str]) -> AsyncIterator[str]:
    async for two in stream.take(2):
        yield "+".join(two)


@app.agent(words)
async def soon(stream: Stream[str]) -> AsyncIterator[str]:
    async for some in stream.take(10, within=0.05):
        yield "+".join(some)


@app.agent(words, on_failure="fail")
async def strict(stream: Stream[str]) -> AsyncIterator[int]:
    async for word in stream:
        yield int(word)


@app.agent(words)
async def steady(stream: Stream[str]) -> AsyncIterator[str]:
    while True:
        try:
            async for word in stream:
                yield word
        except KeyError as error:
            await called(error.args[0])


@app.agent(words)
async def where(stream: Stream[str]) -> AsyncIterator[object]:
    async for word in stream:
        event = current_event()
        assert event is not None
        yield word, event.message.partition, event.message.timestamp, dict(event.headers)


@app.timer(0.001)
async def elsewhere() -> None:
    raise AssertionError("other parts of the app do not run")


@pytest.fixture(autouse=True)
def no_calls() -> None:
    called.reset_mock()


async def test_a_table_behind_a_group_by_is_updated_when_put_returns() -> None:
    async with counted.test_context() as agent:
        sale = Sale(shop="north", price=3)
        event = await agent.put(sale)
        assert count_by_shop["north"] == 1
        assert (agent.results[event.message.offset], event.value) == (sale, sale)
        await agent.put(sale)
        await agent.put(Sale(shop="south", price=5))
        assert dict(count_by_shop) == {"north": 2, "south": 1}
        assert agent.results[2].shop == "south"
        assert (agent.sent_offset, agent.processed_offset) == (3, 3)


async def test_each_context_begins_with_empty_tables_which_can_be_read_after_it() -> None:
    for seconds in (4, 5):
        async with measured.test_context() as agent:
            await agent.put(Visit("start", seconds), key="ann")
            assert agent.results == {0: Visit("start", seconds)}
        assert seconds_by_page["start"] == seconds


def test_an_agent_is_tested_in_one_event_loop_after_the_other() -> None:
    for _ in range(2):
        asyncio.run(test_a_table_behind_a_group_by_is_updated_when_put_returns())


async def test_results_are_kept_by_offset_also_of_an_agent_that_does_not_yield_for_each_record() -> None:
    async with loud.test_context() as agent:
        offsets = [(await agent.put(word)).message.offset for word in ("a", "", "b")]
        assert offsets == [0, 1, 2]
        assert agent.results == {0: "a!", 2: "b!"}
        called.assert_any_await("b!")


async def test_several_records_are_sent_without_waiting_for_each() -> None:
    async with loud.test_context() as agent:
        for word in "abcd":
            await agent.put(word, wait=False)
        await agent.put("e")
        assert list(agent.results.values()) == ["a!", "b!", "c!", "d!", "e!"]


async def test_a_result_can_be_waited_for() -> None:
    async with loud.test_context() as agent:
        await agent.put("a", wait=False)
        async with agent.new_value_processed:
            await agent.new_value_processed.wait_for(lambda: agent.results)
        assert agent.results == {0: "a!"}


async def test_a_record_that_take_holds_back_does_not_block_the_test() -> None:
    async with pairs.test_context() as agent:
        await agent.put("a")
        assert agent.results == {}
        await agent.put("b")
        assert agent.results == {0: "a+b", 1: "a+b"}


async def test_a_record_that_take_holds_back_for_a_time_is_waited_for() -> None:
    async with soon.test_context() as agent:
        await agent.put("a", wait=False)
        await agent.put("b")
        assert agent.results == {0: "a+b", 1: "a+b"}


async def test_what_the_agent_raises_is_raised_by_put_and_its_record_is_rolled_back() -> None:
    noted: list[BaseException] = []

    async def note(_: object, error: BaseException) -> None:
        noted.append(error)

    async with measured.test_context(on_error=note) as agent:
        await agent.put(Visit("start", 2))
        with pytest.raises(ValueError, match="-1 seconds"):
            await agent.put(Visit("start", -1))
        await agent.put(Visit("start", 3))
        assert seconds_by_page["start"] == 5
        assert sorted(agent.results) == [0, 2]
    called.assert_awaited_once_with("start")
    assert [type(error) for error in noted] == [ValueError]


async def test_the_policy_fail_ends_the_context_with_the_agents_own_error() -> None:
    async with strict.test_context() as agent:
        await agent.put("1")
        for _ in range(2):
            with pytest.raises(ValueError, match="invalid literal"):
                await agent.put("one")


async def test_an_error_that_no_put_has_raised_is_raised_at_the_end() -> None:
    with pytest.raises(Stop, match="invalid literal"):
        async with strict.test_context() as agent:
            await agent.put("one", wait=False)
            await asyncio.wait({agent._worker._task})


async def test_an_exception_is_thrown_into_the_agent() -> None:
    async with steady.test_context() as agent:
        await agent.throw(KeyError("x"))
        await agent.put("a")
        assert agent.results == {0: "a"}
    called.assert_awaited_once_with("x")


async def test_an_exception_that_the_agent_does_not_catch_is_raised_by_the_next_put() -> None:
    async with loud.test_context() as agent:
        await agent.throw(KeyError("x"))
        with pytest.raises(KeyError, match="x"):
            await agent.put("a")


async def test_an_agent_answers() -> None:
    async with loud.test_context() as agent:
        assert await agent.ask("a") == "a!"
        assert [answer async for answer in agent.map(["b"])] == ["b!"]
        await agent.put("c", reply_to="answers", correlation_id="1")
        assert agent.results == {0: "c!"}


async def test_partition_time_and_headers_are_those_of_the_record() -> None:
    async with where.test_context() as agent:
        event = await agent.put("a", partition=2, timestamp=1000.5, headers={"by": "hand"})
        assert agent.results[0] == ("a", 2, 1000.5, {"by": b"hand"})
        assert (event.message.partition, event.message.timestamp, event.headers) == (2, 1000.5, {"by": b"hand"})
        await agent.put("b")
        assert agent.results[1][1] == 0


async def test_values_are_encoded_as_the_topic_declares() -> None:
    async with measured.test_context() as agent:
        event = await agent.put(b'{"page":"start","seconds":7}', key="ann")
        assert (event.key, event.value) == ("ann", Visit("start", 7))
        with pytest.raises(msgspec.ValidationError, match="got `int`"):
            await agent.put(3)
        assert agent.results == {0: Visit("start", 7)}


async def test_misuse_is_named() -> None:
    context = loud.test_context()
    with pytest.raises(Usage, match="the test context is not open"):
        await context.put("a")
    async with context as agent:
        with pytest.raises(Usage, match="topic words has 4 partitions"):
            await agent.put("a", partition=4)
        with pytest.raises(Usage, match="another test context of app context runs already"):
            async with pairs.test_context():
                pass
        await agent.put("a")
    with pytest.raises(Usage, match="the test context is not open"):
        await context.put("a")
    with pytest.raises(TypeError, match="concurency"):
        loud.test_context(concurency=2)


async def test_an_agent_of_a_channel_in_memory_runs_as_in_faust() -> None:
    channels = App("channels")

    @channels.agent(channels.channel())
    async def doubled(stream: Any) -> Any:
        async for number in stream:
            yield 2 * number

    async with doubled.test_context() as agent:
        event = await agent.put(3)
        assert agent.results[event.message.offset] == 6


async def test_a_table_on_disk_lies_in_a_folder_of_the_context(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("rocksdict")
    monkeypatch.chdir(tmp_path)
    disk = App("disk", store="rocksdb://")
    texts = disk.topic("texts", value_type=str)
    lengths = disk.Table("lengths", default=int)

    @disk.agent(texts)
    async def measure(stream: Stream[str]) -> None:
        async for text in stream:
            lengths[text] = len(text)

    async with measure.test_context() as agent:
        await agent.put("four")
        assert lengths["four"] == 4
    assert os.listdir(tmp_path) == []


@app.agent(words)
async def passing_on(stream: Stream[str]) -> AsyncIterator[str]:
    async for word in stream:
        await loud.send(value=word)
        yield word


async def test_another_agent_is_replaced_by_a_mock(monkeypatch: pytest.MonkeyPatch) -> None:
    # What Faust's page on tests does before: no part of it is needed here.
    app.finalize()
    app.conf.store = "memory://"
    app.flow_control.resume()
    with monkeypatch.context() as patched:
        patched.setitem(globals(), "loud", AsyncMock())
        async with passing_on.test_context() as agent:
            await agent.put("a")
        loud.send.assert_awaited_once_with(value="a")
