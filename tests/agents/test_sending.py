"""Replies, sinks, timers and tasks: what they send, and when it becomes visible."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import faust
import msgspec
import pytest
from anabranch import Keyed
from anabranch.agents.replies import ReplyConsumer
from anabranch.agents.runtime import runtime_of
from anabranch.topics.errors import BadRecord, Stop


class Order(msgspec.Struct):
    user: str
    amount: int


class Withdrawal(faust.Record, serializer="json"):
    user: str
    amount: int


# Sinks ----------------------------------------------------------------------------------------------------------------


async def test_what_an_agent_yields_goes_to_its_sinks(lab, drain) -> None:
    topic, target, app = lab.topic(), lab.topic(1, "out"), lab.app(lab.fresh("app"))
    called, awaited, by_agent = [], [], []

    @app.agent(app.topic(lab.topic()), name="next")
    async def next_agent(stream):
        async for value in stream:
            by_agent.append(value)

    async def wait_for_it(value):
        await asyncio.sleep(0)
        awaited.append(value)

    @app.agent(app.topic(topic), name="doubler", sink=[app.topic(target), next_agent, called.append, wait_for_it])
    async def doubler(stream):
        async for value in stream:
            yield 2 * value

    lab.produce(topic, [1, 2, 3])
    async with lab.running(app):
        await lab.until(lambda: by_agent == [2, 4, 6], "the agent behind the sink")
        await lab.caught_up(topic, app)
    assert called == awaited == [2, 4, 6]
    assert [m.value() for m in drain(target)] == [b"2", b"4", b"6"]


async def test_a_yielded_value_has_the_key_that_it_is_given(lab, drain) -> None:
    topic, behind, target, name = lab.topic(1), lab.topic(), lab.topic(1, "out"), lab.fresh("app")
    app, client = lab.app(name), lab.app(name, worker="client")
    called, by_agent = [], []

    def made(app: Any) -> Any:
        @app.agent(app.topic(behind, key_type=str), name="next")
        async def next_agent(stream):
            async for key, value in stream.items():
                by_agent.append((key, value))

        @app.agent(app.topic(topic), name="doubler", sink=[app.topic(target, key_type=str), next_agent, called.append])
        async def doubler(stream):
            async for value in stream:
                yield 7 if value == 1 else Keyed(f"k{value}", 2 * value)

        return doubler

    made(app)
    doubler = made(client)
    async with lab.running(app):
        await client.start_client()
        try:
            assert await asyncio.wait_for(doubler.ask(1), 60) == 7
            assert await asyncio.wait_for(doubler.ask(2), 60) == 4, "who asks gets the value alone"
        finally:
            await client.stop()
        await lab.until(lambda: sorted(by_agent, key=str) == [("k2", 4), (None, 7)], "the agent behind the sink")
    assert called == [7, 4]
    assert [(m.key(), m.value()) for m in drain(target)] == [(None, b"7"), (b"k2", b"4")]


async def test_a_sink_that_raises_sends_the_record_to_the_policy_of_its_agent(lab, drain) -> None:
    topic, target, app = lab.topic(), lab.topic(1, "out"), lab.app(lab.fresh("app"))

    def refuse(value):
        if value == 4:
            raise ValueError("not four")

    @app.agent(app.topic(topic), name="doubler", sink=[app.topic(target), refuse])
    async def doubler(stream):
        async for value in stream:
            yield 2 * value

    lab.produce(topic, [1, 2, 3])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert [m.value() for m in drain(target)] == [b"2", b"6"]
    assert [m.value() for m in drain(f"{topic}.dlq")] == [b"2"]


# Asking ---------------------------------------------------------------------------------------------------------------


def doubling(app: Any, topic: str, **options: Any) -> Any:
    @app.agent(app.topic(topic, **options), name="doubler")
    async def doubler(stream):
        async for value in stream:
            yield 2 * value

    return doubler


async def test_a_client_asks_and_gets_the_answer(lab) -> None:
    topic, name = lab.topic(2), lab.fresh("app")
    app, client = lab.app(name), lab.app(name, worker="client")
    doubling(app, topic)
    doubler = doubling(client, topic)
    async with lab.running(app):
        await client.start_client()
        try:
            assert await asyncio.wait_for(doubler.ask(21), 60) == 42
            assert await asyncio.gather(*(doubler.ask(i, key=f"k{i}") for i in range(20))) == [2 * i for i in range(20)]
            # What others write among the answers is not one, and keeps no answer back.
            lab.produce(client.conf.reply_to, [b"no answer", None, b"[" * 10_000, b"{}"])
            assert await asyncio.wait_for(doubler.ask(4), 60) == 8
        finally:
            await client.stop()


@pytest.mark.parametrize("where", ["client", "task", "agent"])
@pytest.mark.parametrize("fault", ["the agent fails", "the topic refuses"])
async def test_who_asks_is_told_that_the_question_is_refused(lab, where, fault, drain) -> None:
    questions, name, found = lab.topic(), lab.fresh("app"), []
    if fault == "the topic refuses":
        questions = lab.topic(cleanup_policy="compact")  # takes no record without a key
    app = lab.app(name)
    asking = lab.app(name, worker="client") if where == "client" else app
    question = "7" if fault == "the topic refuses" else "no number"

    def agent_of(app):
        @app.agent(app.topic(questions), name="reader")
        async def reader(stream):
            async for value in stream:
                yield int(value)

        return reader

    reader = agent_of(app)
    if asking is not app:
        reader = agent_of(asking)

    async def ask() -> None:
        with pytest.raises(BadRecord) as refused:
            await asyncio.wait_for(reader.ask(question), 60)
        found.append(str(refused.value))
        assert await asyncio.wait_for(reader.ask("7", key="k"), 60) == 7
        with pytest.raises(BadRecord):
            await asyncio.wait_for(reader.join([question]), 60)
        with pytest.raises(BadRecord):
            assert [answer async for answer in reader.map([question])] == []
        found.append("answered")

    if where == "task":
        app.task(ask)
    elif where == "agent":
        start = lab.topic()

        @app.agent(app.topic(start), name="asker")
        async def asker(stream):
            async for _ in stream:
                await ask()

        lab.produce(start, [1])
    async with lab.running(app):
        if where == "client":
            await asking.start_client()
            try:
                await ask()
            finally:
                await asking.stop()
        await lab.until(lambda: len(found) >= 2)
    why = (
        "agent reader failed at the question: ValueError" if fault == "the agent fails" else "does not take the record"
    )
    assert why in found[0]


@pytest.mark.parametrize("kind", [Order, Withdrawal], ids=["struct", "faust record"])
async def test_questions_and_answers_have_types(lab, kind) -> None:
    topic, app, answers = lab.topic(), lab.app(lab.fresh("app")), []

    @app.agent(app.topic(topic, value_type=kind), name="doubler")
    async def doubler(stream):
        async for order in stream:
            assert isinstance(order, kind)
            yield kind(user=order.user, amount=2 * order.amount)

    @app.task
    async def asker():
        answers.append(await doubler.ask(kind(user="ann", amount=3)))

    async with lab.running(app):
        await lab.until(lambda: answers)
    expected: Any = Withdrawal(user="ann", amount=6) if kind is Withdrawal else {"user": "ann", "amount": 6}
    assert answers == [expected]


@pytest.mark.parametrize("where", ["task", "timer", "agent", "agent that gathers"])
async def test_asking_an_agent_of_the_same_worker_does_not_wait_for_a_commit_that_waits_for_the_asker(
    lab, where, table_of
) -> None:
    topic, questions, app, answers = lab.topic(), lab.topic(), lab.app(lab.fresh("app")), []
    sums = app.Table("sums", default=int)
    doubler = doubling(app, questions)

    if where in ("agent", "agent that gathers"):

        @app.agent(app.topic(topic), name="asker")
        async def asker(stream):
            async for value in stream:
                if where == "agent":
                    answer = await doubler.ask(value)
                else:
                    (answer,) = await asyncio.gather(doubler.ask(value))
                answers.append(answer)
                sums["all"] += answer
    elif where == "task":

        @app.task
        async def ask_once():
            for value in (1, 2, 3):
                answers.append(await doubler.ask(value))
    else:

        @app.timer(interval=0.01)
        async def ask_now_and_then():
            if len(answers) < 3:
                answers.append(await doubler.ask(len(answers) + 1))

    lab.produce(topic, [1, 2, 3])
    async with lab.running(app):
        await lab.until(lambda: len(answers) == 3, "answers", 8)
        if where.startswith("agent"):
            await lab.caught_up(topic, app)
    assert answers == [2, 4, 6]
    if where.startswith("agent"):
        assert table_of(app, "sums") == {"all": 12}


async def test_map_and_join_ask_many_questions(lab) -> None:
    topic, app, mapped, joined = lab.topic(2), lab.app(lab.fresh("app")), [], []
    doubler = doubling(app, topic)

    @app.task
    async def asker():
        joined.extend(await doubler.join([1, 2, 3]))
        async for answer in doubler.map([4, 5, 6]):
            mapped.append(answer)

    async with lab.running(app):
        await lab.until(lambda: len(mapped) == 3, "answers")
    assert joined == [2, 4, 6]
    assert sorted(mapped) == [8, 10, 12]


@pytest.mark.parametrize("how", ["ask", "join"])
async def test_an_answer_is_never_faster_than_the_listener(lab, how, monkeypatch) -> None:
    #  asker     ── listens to where answers come ── asks ──────────── has the answer
    #  answerer                                          ── answers ──
    app, asked, answers, opened = lab.app(lab.fresh("app")), threading.Event(), [], ReplyConsumer._open
    early: list[bool] = []

    @app.agent(app.topic(lab.topic()), name="doubler")
    async def doubler(stream):
        async for value in stream:
            asked.set()
            yield 2 * value

    def open_late(*args: Any) -> Any:
        early.append(asked.wait(0.5))
        return opened(*args)

    monkeypatch.setattr(ReplyConsumer, "_open", staticmethod(open_late))

    @app.task
    async def asker():
        answers.extend(await (asyncio.gather(doubler.ask(1), doubler.ask(2)) if how == "ask" else doubler.join([1, 2])))

    async with lab.running(app):
        await lab.until(lambda: answers or any(early))
    assert early == [False], "listens once, and before it asks"
    assert answers == [2, 4]


async def test_the_first_answer_counts_and_another_harms_nothing(lab) -> None:
    app, answers = lab.app(lab.fresh("app")), []

    @app.agent(app.topic(lab.topic()), name="twice")
    async def twice(stream):
        async for value in stream:
            yield value
            yield -value

    @app.task
    async def asker():
        for value in range(1, 6):
            answers.append(await twice.ask(value))

    async with lab.running(app):
        await lab.until(lambda: len(answers) == 5)
    assert answers == [1, 2, 3, 4, 5]


async def test_cast_and_send_reach_an_agent_without_an_answer(lab) -> None:
    app, got = lab.app(lab.fresh("app")), []

    @app.agent(name="listener")  # a topic of its own
    async def listener(stream):
        async for event in stream.events():
            got.append((event.key, event.value))

    @app.task
    async def talk():
        await listener.cast("a", key="k1")
        await listener.send(key="k2", value="b")
        await app.send(f"{app.conf.id}-listener", key="k3", value="c")

    async with lab.running(app):
        await lab.until(lambda: len(got) == 3, "records")
    assert sorted(got) == [(b"k1", "a"), (b"k2", "b"), (b"k3", "c")]


# Timers and tasks -----------------------------------------------------------------------------------------------------


async def test_a_timer_sends_with_the_next_epoch(lab, drain) -> None:
    topic, target, app = lab.topic(), lab.topic(1, "out"), lab.app(lab.fresh("app"))
    out, ticks = app.topic(target), []

    @app.agent(app.topic(topic), name="idle")
    async def idle(stream):
        async for _ in stream:
            pass

    @app.timer(interval=0.02)
    async def tick():
        if len(ticks) < 3:
            await out.send(value=len(ticks))
            ticks.append(runtime_of(app).status.commits_total)

    async with lab.running(app):
        await lab.until(lambda: len(ticks) == 3)
    assert [m.value() for m in drain(target)] == [b"0", b"1", b"2"], "also what came just before the end"


async def test_an_app_without_agents_sends(lab, drain) -> None:
    target, app, sent = lab.topic(1, "out"), lab.app(lab.fresh("app")), []
    out = app.topic(target)

    @app.timer(interval=0.01)
    async def tick():
        if len(sent) < 3:
            await out.send(value=len(sent))
            sent.append(1)

    async with lab.running(app):
        await lab.until(lambda: len(sent) == 3)
    assert [m.value() for m in drain(target)] == [b"0", b"1", b"2"]


async def test_a_timer_reads_committed_tables_and_cannot_write_them(lab) -> None:
    topic, app = lab.topic(2), lab.app(lab.fresh("app"))
    totals, seen, refused = app.Table("totals", default=int), set(), []

    @app.agent(app.topic(topic), name="adder")
    async def adder(stream):
        async for value in stream:
            totals[f"k{value % 2}"] += 1
            await asyncio.sleep(0)
            totals[f"k{value % 2}"] += 1  # in between, the number is odd, and nobody's business

    @app.timer(interval=0.001)
    async def look():
        seen.update(totals.values())
        assert totals.get("nobody") is None
        assert totals["nobody"] == 0
        assert ("k0" in totals) == (len(totals) > 0 and "k0" in dict(totals.items()))
        try:
            totals["k0"] = 1
        except BadRecord as exc:
            refused.append(str(exc))

    lab.produce(topic, [(f"k{i % 2}", i) for i in range(200)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        await lab.until(lambda: dict(totals.items()) == {"k0": 200, "k1": 200} and refused)
    assert all(value % 2 == 0 for value in seen)
    assert "cannot modify a table outside of an agent" in refused[0]


async def test_a_task_that_takes_the_app_gets_it_and_runs_when_tables_are_restored(lab) -> None:
    topic, name, seen = lab.topic(), lab.fresh("app"), []

    def program(app):
        totals = app.Table("totals", default=int)

        @app.agent(app.topic(topic), name="adder")
        async def adder(stream):
            async for value in stream:
                totals["all"] += value

        @app.task
        async def look(given):
            seen.append((given is app, dict(totals.items())))

    first, second = lab.app(name), lab.app(name)
    program(first), program(second)
    lab.produce(topic, [1, 2])
    async with lab.running(first):
        await lab.caught_up(topic, first)
    async with lab.running(second):
        await lab.until(lambda: len(seen) == 2)
    assert seen[1] == (True, {"all": 3})


async def test_one_worker_of_the_group_is_the_leader(lab) -> None:
    topic, name = lab.topic(4), lab.fresh("app")
    ticks: dict[str, int] = {"a": 0, "b": 0}

    def program(worker):
        app = lab.app(name, worker=worker)

        @app.agent(app.topic(topic), name="idle")
        async def idle(stream):
            async for _ in stream:
                pass

        @app.timer(interval=0.01, on_leader=True)
        async def tick():
            ticks[worker] += 1

        return app

    first, second = program("a"), program("b")
    async with lab.running(first, second):
        await lab.until(lambda: {first.is_leader(), second.is_leader()} == {True, False})
        leader = "a" if first.is_leader() else "b"
        other = "b" if leader == "a" else "a"
        before = dict(ticks)
        await lab.until(lambda: ticks[leader] > before[leader] + 10)
        assert ticks[other] <= before[other] + 1


async def test_an_agent_that_asks_before_its_loop_is_told_so_instead_of_waiting_for_ever(lab) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    doubler = doubling(app, lab.topic())

    @app.agent(app.topic(topic), name="hasty")
    async def hasty(stream):
        await doubler.ask(1)
        async for _ in stream:
            pass

    stop = await lab.stopped_by(app)
    assert isinstance(stop, Stop)
    assert "agent hasty sends a request to agent doubler before its own loop" in str(stop)


@pytest.mark.parametrize("policy", ["dead_letter", "skip", "fail"])
async def test_an_agent_on_a_channel_in_memory_goes_on_after_a_failure_unless_its_policy_is_to_stop(lab, policy):
    app, seen = lab.app(lab.fresh("app")), []
    channel = app.channel()

    @app.agent(channel, name="picky", on_failure=policy)
    async def picky(stream):
        async for value in stream:
            if value == 2:
                raise ValueError("no two")
            seen.append(value)

    @app.task
    async def feed():
        for value in (1, 2, 3):
            await channel.put(value)

    if policy == "fail":
        stop = await lab.stopped_by(app)
        assert isinstance(stop, Stop)
        assert "agent picky failed: ValueError: no two" in str(stop)
    else:
        async with lab.running(app):
            await lab.until(lambda: seen == [1, 3])
            await lab.until(lambda: runtime_of(app).status.skipped_total == 1)  # counted with the epoch's commit
