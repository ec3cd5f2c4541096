"""Dead letters are re-published once each, unchanged, to their origin, also after filters, kills and restarts."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from anabranch.replay.dead_letters import republish_run
from anabranch.replay.dead_letters.dead_letter_reader import DeadLetterFilter, DeadLetterRecord, count_by_kind
from anabranch.replay.dead_letters.republisher import OffsetRanges, Republisher
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.dead_letter import Origin, dead_letter
from anabranch.topics.errors import Stop
from anabranch.topics.producer import TransactionalProducer
from confluent_kafka import Message

Drain = Callable[..., list[Message]]
Fresh = Callable[..., str]

LONG_AGO_MS = 1_357_016_400_000


class Place:
    """A topic of three partitions and its dead letters."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.topic, self.letters = cluster, name, f"{name}.dlq"
        self.runs = f"{name}-runs"
        Admin(cluster).create([TopicSpec(name, 3), TopicSpec(self.letters, 1)])

    def bury(self, *numbers: int, agent: str = "total", reason: str = "agent", since_ms: int = LONG_AGO_MS) -> None:
        """Letters in transactions of two, as a worker writes them: with markers between."""
        producer = TransactionalProducer(self.cluster, f"bury-{self.topic}")
        producer.open()
        for i in range(0, len(numbers), 2):
            producer.begin()
            for n in numbers[i : i + 2]:
                origin: dict[str, Any] = {"partition": n % 3, "offset": n} if reason != "line" else {}
                letter = dead_letter(
                    topic=self.topic,
                    key=b"k%d" % n,
                    value=b"%d" % n,
                    headers=[("trace", b"t%d" % n), ("null", None)],
                    reason=reason,
                    error=f"Boom: no {n}",
                    agent=agent,
                    **origin,
                )
                producer.produce(letter.topic, letter.value, letter.key, -1, since_ms + n, letter.headers)
            producer.commit()
        producer.close()

    def dead(self, **more: Any) -> Republisher:
        return Republisher(self.cluster, self.letters, runs_topic=self.runs, **more)


@pytest.fixture
def place(broker: Cluster, fresh: Fresh) -> Place:
    return Place(broker, fresh("orders"))


def numbers(messages: list[Message]) -> list[int]:
    return sorted(int(m.value() or b"") for m in messages)


def test_a_record_comes_back_as_it_was_and_where_it_was(place: Place, drain: Drain) -> None:
    place.bury(*range(7))
    assert place.dead().republish(DeadLetterFilter()).sent == 7
    found = drain(place.topic)
    assert numbers(found) == list(range(7))
    for message in found:
        n = int(message.value() or b"")
        assert (message.key(), message.partition(), message.timestamp()[1]) == (b"k%d" % n, n % 3, LONG_AGO_MS + n)
        assert message.headers() == [("trace", b"t%d" % n), ("null", None)]


def test_times_before_1970_are_kept(place: Place, drain: Drain) -> None:
    place.bury(*range(3), since_ms=-LONG_AGO_MS)
    assert place.dead().republish(DeadLetterFilter()).sent == 3
    assert sorted(m.timestamp()[1] for m in drain(place.topic)) == [-LONG_AGO_MS + n for n in range(3)]


def test_a_time_that_librdkafka_takes_for_the_present_is_refused_unless_the_present_is_asked_for(
    place: Place, drain: Drain
) -> None:
    facts = {"reason": "agent", "topic": place.topic, "partition": "0", "offset": "1", "timestamp-ms": "0"}
    headers = [(f"anabranch-{name}", text.encode()) for name, text in facts.items()]
    producer = TransactionalProducer(place.cluster, f"bury-{place.topic}")
    producer.open()
    producer.begin()
    producer.produce(place.letters, b"1", b"k", -1, LONG_AGO_MS, headers)
    producer.commit()
    producer.close()
    with pytest.raises(Stop, match="exactly 0 ms"):
        place.dead().republish(DeadLetterFilter())
    assert place.dead(now=True).republish(DeadLetterFilter()).sent == 1
    assert [m.value() for m in drain(place.topic)] == [b"1"]


def test_started_again_it_goes_on_with_what_is_new_whichever_filters_there_were(place: Place, drain: Drain) -> None:
    place.bury(*range(10), agent="a")
    place.bury(*range(10, 15), agent="b")
    assert place.dead().republish(DeadLetterFilter(agent="b")).sent == 5
    assert place.dead().republish(DeadLetterFilter(match="no 3")).sent == 1
    assert place.dead().preview(DeadLetterFilter()).sent == 9
    again = place.dead().republish(DeadLetterFilter())
    assert (again.sent, again.before) == (9, 6)
    place.bury(20, 21)
    assert place.dead().republish(DeadLetterFilter()).sent == 2
    assert place.dead().republish(DeadLetterFilter()).sent == 0
    assert numbers(drain(place.topic)) == [*range(15), 20, 21]
    state = place.dead()._found()
    assert state is not None
    assert state.position is not None
    assert len(state.position) == 1, "all of it is one range"


def test_what_an_end_in_the_middle_has_not_put_back_comes_once_later(
    place: Place, drain: Drain, dying: Callable[[int], AbstractContextManager[None]]
) -> None:
    place.bury(*range(20))
    for at in (0, 1, 2):
        with pytest.raises(KeyboardInterrupt), dying(at):
            place.dead(transaction_letters=4).republish(DeadLetterFilter())
    report = place.dead(transaction_letters=4).republish(DeadLetterFilter())
    # A transaction has fewer than four where a fetch brings fewer.
    assert 3 <= report.before <= 12
    assert report.sent == 20 - report.before
    assert numbers(drain(place.topic)) == list(range(20))


def test_another_topic_gets_all_of_them_once_as_well(place: Place, fresh: Fresh, drain: Drain) -> None:
    other = fresh("mend")
    Admin(place.cluster).create([TopicSpec(other, 1)])
    place.bury(*range(4))
    place.dead().republish(DeadLetterFilter())
    assert place.dead(to=other).republish(DeadLetterFilter()).sent == 4
    assert place.dead(to=other).republish(DeadLetterFilter()).sent == 0
    assert numbers(drain(other)) == list(range(4))
    with pytest.raises(Stop, match="no topic"):
        place.dead(to=fresh("nowhere")).republish(DeadLetterFilter())


def test_lines_of_a_file_are_no_records_and_are_left(place: Place, drain: Drain) -> None:
    place.bury(1, 2)
    place.bury(3, reason="line")
    report = place.dead().republish(DeadLetterFilter())
    assert (report.sent, report.without_record) == (2, 1)
    assert numbers(drain(place.topic)) == [1, 2]


def test_letters_of_a_topic_that_was_made_anew_are_new(place: Place, drain: Drain) -> None:
    place.bury(1, 2)
    place.dead().republish(DeadLetterFilter())
    admin = Admin(place.cluster)
    admin.delete([place.letters])
    admin.create([TopicSpec(place.letters, 1)])
    place.bury(3, 4)
    assert place.dead().republish(DeadLetterFilter()).sent == 2
    assert numbers(drain(place.topic)) == [1, 2, 3, 4]


def test_letters_are_counted_by_agent_reason_and_error(place: Place) -> None:
    place.bury(1, 2, 3)
    place.bury(4, reason="decode")
    place.dead().republish(DeadLetterFilter(offsets=(0, 0)))
    counts = place.dead().counts()
    assert {kind: (c.letters, c.republished, c.first_ms, c.last_ms) for kind, c in counts.items()} == {
        ("total", "agent", "Boom"): (3, 1, LONG_AGO_MS + 1, LONG_AGO_MS + 3),
        ("total", "decode", "Boom"): (1, 0, LONG_AGO_MS + 4, LONG_AGO_MS + 4),
    }


def test_the_times_of_a_kind_are_those_of_its_records_also_before_1970() -> None:
    def letter(facts: dict[str, str]) -> DeadLetterRecord:
        return DeadLetterRecord("orders.dlq", 0, 0, LONG_AGO_MS, None, None, [], {"reason": "agent", **facts})

    letters = [letter({"timestamp-ms": "-7000"}), letter({"timestamp-ms": "-9000"})]
    (count,) = count_by_kind((each, False) for each in letters).values()
    assert (count.first_ms, count.last_ms) == (-9000, -7000)
    (count,) = count_by_kind([(letter({}), False)]).values()
    assert (count.first_ms, count.last_ms) == (LONG_AGO_MS, LONG_AGO_MS)


def test_ranges_are_a_set_of_offsets() -> None:
    dice = random.Random(7)
    for _ in range(200):
        ranges, dumb = OffsetRanges(), set[int]()
        for _ in range(dice.randrange(12)):
            begin = dice.randrange(30)
            end = begin + 1 + dice.randrange(6)
            if dice.random() < 0.7:
                ranges.add(0, begin, end)
                dumb |= set(range(begin, end))
            else:
                ranges.remove(0, begin, end)
                dumb -= set(range(begin, end))
            ranges = OffsetRanges(ranges.position())
        assert {offset for offset in range(40) if (0, offset) in ranges} == dumb
        assert len(ranges) == len([offset for offset in dumb if offset + 1 not in dumb])


@pytest.mark.parametrize("text", ["²", "9" * 5_000, "-1", "1_0", ""])
def test_what_is_no_number_in_a_letter_of_others_is_none(text: str) -> None:
    facts = {
        "topic": "orders",
        "reason": "agent",
        "app": "a",
        "agent": "b",
        "retry-topic": "secrets",
        "timestamp-ms": text,
    }
    letter = DeadLetterRecord("orders.dlq", 0, 7, 1_000, None, None, [], {**facts, "partition": text})
    assert (letter.origin, letter.record_ms, letter.retry_topic) == (None, 1_000, None)
    known = DeadLetterRecord(
        "orders.dlq", 0, 7, 1_000, None, None, [], {**facts, "partition": "1", "offset": text, "row": text}
    )
    assert known.origin == Origin("orders", 1, 0)
    assert known.retry_topic == "a-b-retry", "letters do not choose the topic that they are re-published to"
    assert Origin.parsed(f"orders[0]@{text}") is None


def test_what_is_noted_as_done_keeps_what_another_process_has_just_re_published(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.bury(0, 1, 2)
    first = DeadLetterFilter(offsets=(0, 0))

    class Late(TransactionalProducer):
        def open(self) -> None:
            monkeypatch.undo()
            assert place.dead().republish(first).sent == 1
            super().open()

    monkeypatch.setattr(republish_run, "TransactionalProducer", Late)
    place.dead().note_done(place.topic, [(0, 1, 2)])
    assert [done for _, done in place.dead().read(DeadLetterFilter())] == [True, True, False]
