"""`dlq replay` brings a record back to the agent that failed at it, and to nobody else; so totals hold.

orders ──┬── sound                      every record once
         └── picky ──✗ orders.dlq ── dlq replay ──▶ <app>-picky-retry ── picky
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from anabranch import current_event
from anabranch.agents.engine import replayed_dead_letters
from anabranch.agents.runtime import runtime_of
from anabranch.replay.app_reset import AppReset
from anabranch.replay.dead_letters.dead_letter_reader import DeadLetterFilter
from anabranch.replay.dead_letters.republisher import Republication, Republisher
from anabranch.topics import producer
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.dead_letter import Origin, dead_letter, retry_topic
from anabranch.topics.packed import pack
from anabranch.topics.partitioner_registry import PartitionerRegistry
from anabranch.topics.partitioners import RangePartitioner
from anabranch.topics.producer import TransactionalProducer
from anabranch.topics.topic_partition import TopicPartition
from failing_records import Boom

pytestmark = pytest.mark.memory_suffices(
    "test_a_record_that_fails_again_names_its_first_source_and_comes_again_once",
    "test_partitions_and_partitioner_of_a_retry_topic_are_those_of_its_source",
    "test_an_app_that_begins_at_the_end_of_its_topics_reads_its_letters_all_the_same",
    "test_by_kip_848_a_retry_topic_is_no_reason_to_fear_for_the_tables",
    "test_killed_in_the_middle_each_agent_gets_the_rest_once",
    "test_after_a_reset_dead_letters_come_back_unless_their_records_have",
)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers look for retry topics without a pause."""
    monkeypatch.setattr(replayed_dead_letters, "LOOK_S", 0.05)


@pytest.fixture
def republish(broker: Cluster, fresh: Any) -> Any:
    """Puts back the dead letters of a topic: what was not put back yet."""
    runs = fresh("runs")

    def put(topic: str, **wanted: Any) -> Republication:
        return Republisher(broker, f"{topic}.dlq", runs_topic=runs).republish(DeadLetterFilter(**wanted))

    put.runs = runs  # type: ignore[attr-defined]
    return put


@pytest.fixture
def retried(lab: Any, drain: Any) -> Any:
    """Waits until what was put back is processed; behind it are only markers of transactions."""

    async def wait(app: Any, topic: str) -> None:
        ends = {TopicPartition(topic, message.partition()): message.offset() + 1 for message in drain(topic)}
        assert ends

        def done() -> bool:
            return all(runtime_of(app).status.committed.get(at, 0) >= end for at, end in ends.items())

        await lab.until(lambda: done() or runtime_of(app).stopped_by is not None, f"all of {topic} committed")
        runtime_of(app).raise_if_stopped()

    return wait


class Two:
    """An app of two agents that read one topic and add up; `picky` fails at what is in `bad`."""

    def __init__(self, lab: Any, topic: str, name: str, **options: Any) -> None:
        self.bad = {10}
        self.seen: list[Any] = []
        self.app = lab.app(name, **options)
        orders = self.app.topic(topic, value_type=int)
        sound, picky = (self.app.Table(table, default=int) for table in ("sound", "picky"))

        @self.app.agent(orders, name="sound")
        async def adds(stream):
            async for n in stream:
                sound["all"] += n

        @self.app.agent(orders, name="picky")
        async def fails(stream):
            async for n in stream:
                picky["all"] += n
                if n in self.bad:
                    raise Boom(f"not this one, no {n} here")
                message = current_event().message
                self.seen.append((n, message.topic, message.partition, message.offset, message.headers))


async def test_only_the_agent_that_failed_gets_the_record_again(
    lab, record, drain, table_of, republish, retried
) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    two = Two(lab, topic, name)
    async with lab.running(two.app):
        lab.produce(topic, [1, record(10, "k", 0, [("trace", b"x")]), 100])
        await lab.caught_up(topic, two.app)
        assert (table_of(two.app, "sound"), table_of(two.app, "picky")) == ({"all": 111}, {"all": 101})
        two.bad = set()
        retry = f"{name}-picky-retry"
        assert republish(topic).to == {retry: 1}
        await retried(two.app, retry)
        assert republish(topic).sent == 0
    assert (table_of(two.app, "sound"), table_of(two.app, "picky")) == ({"all": 111}, {"all": 111})
    assert two.seen[-1] == (10, topic, 0, 1, [("trace", b"x")]), "the agent sees it as it was and where it was"
    assert len(drain(topic)) == 3


async def test_a_record_that_fails_again_names_its_first_source_and_comes_again_once(
    lab, drain, table_of, republish, retried
) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    two = Two(lab, topic, name)
    retry = f"{name}-picky-retry"
    async with lab.running(two.app):
        lab.produce(topic, [1, 10, 100])
        await lab.caught_up(topic, two.app)
        for failures in (2, 3):
            assert republish(topic).sent == 1
            await lab.until(lambda n=failures: len(drain(f"{topic}.dlq")) == n, "it fails again")
        assert retry + ".dlq" not in lab.admin.partitions([retry + ".dlq"])
        sources = [dict(letter.headers())["anabranch-source"].decode() for letter in drain(f"{topic}.dlq")]
        assert sources == [f"{topic}[0]@1"] * 3
        assert all("anabranch-retry-of" not in dict(letter.headers()) for letter in drain(f"{topic}.dlq"))
        two.bad = set()
        assert (republish(topic).sent, republish(topic).before) == (1, 3)
        await retried(two.app, retry)
    # Started again it finds the topic at once, and what is committed there is not read again.
    again = Two(lab, topic, name)
    async with lab.running(again.app):
        lab.produce(topic, [1000])
        await lab.caught_up(topic, again.app)
    assert (table_of(two.app, "sound"), table_of(two.app, "picky")) == ({"all": 1111}, {"all": 1111})


async def test_two_agents_that_failed_at_one_record_get_it_once_each(lab, table_of, republish, retried) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    app, bad = lab.app(name), [10]
    orders, total = app.topic(topic, value_type=int), app.Table("total", default=int)

    def add(who: str) -> None:
        @app.agent(orders, name=who)
        async def fails(stream):
            async for n in stream:
                if n in bad:
                    raise Boom("not this one")
                total[who] += n

    add("a")
    add("b")
    async with lab.running(app):
        lab.produce(topic, [1, 10, 100])
        await lab.caught_up(topic, app)
        bad.clear()
        assert republish(topic).to == {f"{name}-a-retry": 1, f"{name}-b-retry": 1}
        await retried(app, f"{name}-a-retry")
        await retried(app, f"{name}-b-retry")
    assert table_of(app, "total") == {"a": 111, "b": 111}


async def test_what_cannot_be_decoded_comes_back_to_each_agent_by_itself(lab, republish, record) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    two = Two(lab, topic, name)
    async with lab.running(two.app):
        lab.produce(topic, [record(b"not JSON")])
        await lab.caught_up(topic, two.app)
    assert republish(topic).to == {f"{name}-picky-retry": 1, f"{name}-sound-retry": 1}


async def test_an_agent_of_several_topics_has_a_retry_topic_of_each(lab, republish, retried) -> None:
    one, other, name = lab.topic(1), lab.topic(3), lab.fresh("app")
    app, bad, seen = lab.app(name), [7], []

    @app.agent(app.topic(one, other, value_type=int), name="both")
    async def both(stream):
        async for n in stream:
            if n in bad:
                raise Boom("not this one")
            seen.append((n, current_event().message.topic))

    async with lab.running(app):
        for topic in (one, other):
            lab.produce(topic, [7])
            await lab.caught_up(topic, app)
        bad.clear()
        expected = {topic: f"{name}-both-{topic}-retry" for topic in (one, other)}
        for topic, retry in expected.items():
            assert republish(topic).to == {retry: 1}
            await retried(app, retry)
        assert lab.admin.partitions(expected.values()) == {expected[one]: 1, expected[other]: 3}
    assert seen == [(7, one), (7, other)]


@pytest.mark.parametrize("reads", [1, 2])
async def test_agents_whose_retry_topics_would_have_one_name_have_two(lab, republish, reads: int) -> None:
    name, topics = lab.fresh("app"), [lab.topic() for _ in range(4)]
    app, bad, seen = lab.app(name), {1, 2}, list[Any]()
    first = f"picky-{topics[0]}"
    # Of `picky` for the first topic, and of `first`, whatever it reads.
    declared = {"picky": [topics[0], topics[1]], first: topics[2 : 2 + reads]}

    for agent, names in declared.items():

        @app.agent(app.topic(*names, value_type=int), name=agent)
        async def fails(stream, agent: str = agent):
            async for n in stream:
                if n in bad:
                    raise Boom("not this one")
                seen.append((agent, current_event().message.topic, n))

    async with lab.running(app):
        for n, topic in ((1, topics[0]), (2, topics[2])):
            lab.produce(topic, [n])
            await lab.caught_up(topic, app)
        bad.clear()
        assert republish(topics[0]).to.keys().isdisjoint(republish(topics[2]).to)
        await lab.until(lambda: len(seen) == 2, "both come back")
    assert sorted(seen) == sorted([("picky", topics[0], 1), (first, topics[2], 2)])


async def test_behind_a_repartition_the_record_comes_back_behind_it(lab, table_of, republish, retried) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    app, bad = lab.app(name, topic_partitions=1), [10]
    orders, total = app.topic(topic, value_type=int), app.Table("total", default=int)

    @app.agent(orders, name="keyed")
    async def keyed(stream):
        async for n in stream.group_by(lambda n: n % 2, name="parity"):
            if n in bad:
                raise Boom("not this one")
            total["all"] += n

    async with lab.running(app):
        lab.produce(topic, [1, 10, 100])
        await lab.until(lambda: runtime_of(app).status.dead_letters_total == 1)
        (letters,) = (t for t in lab.admin.partitions() if t.endswith("-repartition.dlq") and topic in t)
        bad.clear()
        ((retry, count),) = republish(letters.removesuffix(".dlq")).to.items()
        assert count == 1
        assert retry.startswith(f"{name}-keyed-")
        await retried(app, retry)
        await lab.until(lambda: table_of(app, "total") == {"all": 111})


async def test_a_row_of_a_packed_batch_comes_back_alone(lab, record, table_of, republish, retried) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    app, bad, seen = lab.app(name), [10], []
    total = app.Table("total", default=int)

    @app.agent(app.topic(topic), name="rows")
    async def rows(stream):
        async for batch in stream.batches():
            for message, value in zip(batch.messages, batch.values, strict=True):
                if value["n"] in bad:
                    raise Boom("not this one")
                seen.append(message.key())
                total["all"] += value["n"]

    made = pack(pa.RecordBatch.from_pylist([{"key": f"k{n}", "n": n} for n in (1, 10, 100)]), key="key")
    async with lab.running(app):
        lab.produce(topic, [record(made.value, None, 1_000, made.headers)])
        await lab.caught_up(topic, app)
        bad.clear()
        assert republish(topic).sent == 1
        await retried(app, f"{name}-rows-retry")
    assert table_of(app, "total") == {"all": 111}
    assert seen[-1] == b"k10"


async def test_partitions_and_partitioner_of_a_retry_topic_are_those_of_its_source(
    lab, record, broker, republish, retried
) -> None:
    topic, name, partitioner = lab.fresh("in"), lab.fresh("app"), RangePartitioner.parsed("g,p")
    app, bad, seen = lab.app(name), ["z"], []

    @app.agent(app.topic(topic, partitioner=partitioner, value_type=str), name="ranged")
    async def ranged(stream):
        async for text in stream:
            if text in bad:
                raise Boom("not this one")
            seen.append(current_event().message.partition)

    async with lab.running(app):
        lab.produce(topic, [record(b"z", "z", 0, None, 2)])
        await lab.caught_up(topic, app)
        bad.clear()
        assert republish(topic).sent == 1
        retry = f"{name}-ranged-retry"
        assert (lab.admin.partitions([retry]), PartitionerRegistry(broker).of([retry])) == (
            {retry: 3},
            {retry: partitioner},
        )
        await retried(app, retry)
    assert seen == [2]


async def test_an_app_that_begins_at_the_end_of_its_topics_reads_its_letters_all_the_same(
    lab, republish, retried
) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    two = Two(lab, topic, name, consumer_auto_offset_reset="latest")
    async with lab.running(two.app):
        lab.produce(topic, [1, 10])
        await lab.caught_up(topic, two.app)
    assert republish(topic).sent == 1
    later = Two(lab, topic, name, consumer_auto_offset_reset="latest")
    later.bad = set()
    async with lab.running(later.app):
        await retried(later.app, f"{name}-picky-retry")
    assert [n for n, *_ in later.seen] == [10]


async def test_by_kip_848_a_retry_topic_is_no_reason_to_fear_for_the_tables(lab, table_of, republish, retried) -> None:
    from anabranch.agents.engine.settings import EngineSettings

    topic, name = lab.topic(), lab.fresh("app")
    two = Two(lab, topic, name, settings=EngineSettings(group_protocol="consumer"))
    async with lab.running(two.app):
        lab.produce(topic, [1, 10, 100])
        await lab.caught_up(topic, two.app)
        two.bad = set()
        assert republish(topic).sent == 1
        await retried(two.app, f"{name}-picky-retry")
    assert (table_of(two.app, "sound"), table_of(two.app, "picky")) == ({"all": 111}, {"all": 111})


def bury(cluster: Cluster, topic: str, letters: list[dict[str, Any]]) -> None:
    """Letters by hand, as other versions write them."""
    producer = TransactionalProducer(cluster, f"bury-{topic}")
    producer.open()
    producer.begin()
    for more in letters:
        made = dead_letter(topic=topic, key=b"k", value=b"1", error="Boom: no", **{"reason": "agent", **more})
        producer.produce(made.topic, made.value, made.key, headers=made.headers)
    producer.commit()
    producer.close()


def test_killed_in_the_middle_each_agent_gets_the_rest_once(broker, fresh, drain, dying, monkeypatch) -> None:
    topic, app = fresh("orders"), fresh("shop")
    Admin(broker).create([TopicSpec(topic, 2), TopicSpec(f"{topic}.dlq", 1)])
    bury(broker, topic, [{"partition": n % 2, "offset": n, "app": app, "agent": "ab"[n % 3 == 0]} for n in range(12)])
    runs = fresh("runs")
    monkeypatch.setattr(producer, "TRANSACTION_TIMEOUT_MS", 1_000)  # a reader waits for what was left open

    def again() -> Republication:
        return Republisher(broker, f"{topic}.dlq", runs_topic=runs, transaction_letters=2).republish(DeadLetterFilter())

    for at in (0, 1, 3):
        with pytest.raises(KeyboardInterrupt), dying(at):
            again()
    report = again()
    assert report.sent + report.before == 12
    assert again().sent == 0

    def sources(agent: str) -> list[str]:
        found = [dict(m.headers())["anabranch-retry-of"].decode() for m in drain(retry_topic(app, agent))]
        return sorted(found)

    by_three = [n for n in range(12) if n % 3 == 0]
    assert sources("b") == sorted(f"{topic}[{n % 2}]@{n}" for n in by_three)
    assert sources("a") == sorted(f"{topic}[{n % 2}]@{n}" for n in range(12) if n not in by_three)
    assert drain(topic) == []


def test_letters_without_an_agent_go_where_they_came_from_and_lines_nowhere(broker, fresh, drain) -> None:
    topic, app = fresh("orders"), fresh("shop")
    Admin(broker).create([TopicSpec(topic, 1), TopicSpec(f"{topic}.dlq", 1)])
    letters = [
        {"reason": "line"},
        {"partition": 0, "offset": 5},
        {"partition": 0, "offset": 6, "app": app, "agent": "a"},
    ]
    bury(broker, topic, letters)
    dead = Republisher(broker, f"{topic}.dlq", runs_topic=fresh("runs"))
    assert dead.preview(DeadLetterFilter()).to == {topic: 1, f"{app}-a-retry": 1}
    report = dead.republish(DeadLetterFilter())
    assert (report.sent, report.without_record) == (2, 1)
    assert (len(drain(topic)), len(drain(f"{app}-a-retry"))) == (1, 1)
    assert dead.preview(DeadLetterFilter()).before == 2


def test_names_of_retry_topics_are_names_that_kafka_takes() -> None:
    assert retry_topic("shop", "shop.total") == "shop-shop.total-retry"
    assert retry_topic("shop", "total", "shop-x-repartition") == "shop-total-x-repartition-retry"
    odd = retry_topic("shop", "test.<locals>.total")
    assert odd.startswith("shop-test._locals_.total-")
    assert odd != retry_topic("shop", "test.[locals].total")
    assert len(retry_topic("shop", "a" * 300)) == 249
    assert Origin.parsed("nonsense") is None


@pytest.mark.parametrize("said", [b"no such topic/[0]@1", b"other[0]@1", b"in[0]@" + b"9" * 5_000, b"\xff", None])
async def test_what_others_write_to_a_retry_topic_does_not_choose_where_letters_go(
    lab, record, drain, said: bytes | None
) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    retry = retry_topic(name, "total")
    lab.admin.create([lab.spec(retry)])
    app = lab.app(name)

    @app.agent(app.topic(topic), name="total")
    async def total(stream):
        async for value in stream:
            raise Boom(str(value))

    lab.produce(retry, [record(1, None, 1_000, [("anabranch-retry-of", said)])])
    async with lab.running(app):
        await lab.until(lambda: runtime_of(app).status.dead_letters_total == 1)
    (letter,) = drain(f"{topic}.dlq")
    assert dict(letter.headers())["anabranch-source"] == f"{topic}[0]@0".encode()


@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_after_a_reset_dead_letters_come_back_unless_their_records_have(
    lab, table_of, republish, retried, start
) -> None:
    #  1 10✗ 100 1000✗    10 is re-published, 1000 is not    reset    2✗
    topic, name = lab.topic(), lab.fresh("app")
    two, retry = Two(lab, topic, name), f"{name}-picky-retry"
    two.bad = {10, 1000}
    async with lab.running(two.app):
        lab.produce(topic, [1, 10, 100, 1000])
        await lab.caught_up(topic, two.app)
        two.bad = set()
        assert republish(topic, match="no 10 ").to == {retry: 1}
        await retried(two.app, retry)
    resetting = AppReset(Two(lab, topic, name).app)
    noted = resetting.execute(resetting.plan(), start=start, runs_topic=republish.runs)
    assert noted == (1 if start == "earliest" else 0)
    assert retry not in lab.admin.partitions()
    two = Two(lab, topic, name)
    two.bad = {2}
    async with lab.running(two.app):
        lab.produce(topic, [2])
        await lab.caught_up(topic, two.app)
        two.bad = set()
        assert republish(topic).to == {retry: 1 if start == "earliest" else 2}
        await retried(two.app, retry)
        assert republish(topic).sent == 0
    sound, picky = (1113, 1113) if start == "earliest" else (2, 1002)
    assert (table_of(two.app, "sound"), table_of(two.app, "picky")) == ({"all": sound}, {"all": picky})


@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_records_that_a_reset_deletes_before_they_are_read_come_back_from_their_dead_letters(
    lab, table_of, republish, retried, start
) -> None:
    #  1✗ 10✗ 10✗    1 is re-published and read, 10 and 10 are not read    reset, where 1 and the first 10 are deleted
    topic, name = lab.topic(1), lab.fresh("app")
    two, retry = Two(lab, topic, name), f"{name}-picky-retry"
    two.bad = {1, 10}
    async with lab.running(two.app):
        lab.produce(topic, [1, 10, 10])
        await lab.caught_up(topic, two.app)
        two.bad = set()
        assert republish(topic, match="no 1 ").sent == 1
        await retried(two.app, retry)
    assert republish(topic).sent == 2
    lab.admin.delete_records({TopicPartition(topic, 0): 2})
    resetting = AppReset(Two(lab, topic, name).app)
    resetting.execute(resetting.plan(), start=start, runs_topic=republish.runs)
    two = Two(lab, topic, name)
    two.bad = set()
    async with lab.running(two.app):
        lab.produce(topic, [100])
        await lab.caught_up(topic, two.app)
        assert republish(topic).sent == (1 if start == "earliest" else 2)
        await retried(two.app, retry)
        assert republish(topic).sent == 0
    assert table_of(two.app, "picky") == {"all": 120}
