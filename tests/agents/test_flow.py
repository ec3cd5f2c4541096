"""Flows: what plain functions make of a topic, against plain Python over the same records."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from functools import reduce
from itertools import pairwise
from statistics import fmean
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from anabranch import col
from anabranch.agents.engine.outbox import Outbox, Partials
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.flows.aggregates import Aggregate, Count, Distinct, Max, Mean, Min, Sum, Top
from anabranch.agents.flows.combiner import Combiner
from anabranch.agents.flows.flow import Flow
from anabranch.agents.flows.hyperloglog import ApproxDistinct
from anabranch.agents.flows.reducers import AggregateReducer, PairReducer, reduced
from anabranch.agents.runtime import runtime_of
from anabranch.topics.errors import Usage
from anabranch.topics.output import Output
from anabranch.topics.packed import pack
from anabranch.topics.topic_partition import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.memory_suffices(
    "test_flows_end_in_tables_and_topics_that_hold_what_python_says",
    "test_a_worker_killed_while_batches_wait_counts_them_once",
)


class Sale(msgspec.Struct):
    item: str
    amount: int
    user: str = ""


def parse(line: str) -> tuple[str, int]:
    key, _, number = line.partition(",")
    return key, int(number)


def parse_sale(line: str) -> Sale:
    item, amount, user = line.split(",")
    return Sale(item, int(amount), user)


def join_sales(a: Sale, b: Sale) -> Sale:
    return Sale(a.item, a.amount + b.amount, max(a.user, b.user))


LINES = [f"{random.Random(i).choice('abcdefg')},{i},u{i % 5}" for i in range(300)]
SALES = [parse_sale(line) for line in LINES]


def by_item() -> dict[str, list[Sale]]:
    groups: dict[str, list[Sale]] = defaultdict(list)
    for sale in SALES:
        groups[sale.item].append(sale)
    return groups


FLOWS = ("totals", "joined", "greatest-odd", "letters", "by-user")


def at_rest(app: Any, drain: Any) -> Any:
    """Whether all that was sent for a table is in it."""

    def check(table: str) -> bool:
        last = {m.partition(): m.offset() for m in drain(f"{app.conf.id}-{table}-repartition")}
        committed = runtime_of(app).status.committed
        return all(committed.get((f"{app.conf.id}-{table}-repartition", p), 0) > at for p, at in last.items())

    return check


async def test_flows_end_in_tables_and_topics_that_hold_what_python_says(lab, table_of, drain) -> None:
    topic, app = lab.topic(2), lab.app(lab.fresh("app"), topic_partitions=2)
    name = app.conf.id
    lines = app.topic(topic, value_type=str)
    sales = lines.map(parse_sale)

    lines.map(lambda line: line.rsplit(",", 1)[0]).map(parse).key_by().reduce(sum, "totals")
    sales.key_by("item").reduce(join_sales, "joined")
    sales.filter(lambda sale: sale.amount % 2).key_by(lambda sale: sale.item, "amount").reduce(max, "greatest-odd")
    lines.flat_map(lambda line: line.split(",")[::2]).key_by(str, len).reduce(sum, "letters")
    sales.key_by("user").aggregate(
        "by-user",
        sales=Count(),
        sold=Sum("amount"),
        least=Min("amount"),
        most=Max("amount"),
        mean=Mean("amount"),
        items=Distinct("item"),
        amounts=ApproxDistinct("amount"),
        best=Top("amount", 2),
    )
    lines.aggregate("by-own-key", lines=Count(), longest=Max(len))
    jsons = app.topic(lab.topic(2), value_type=bytes)
    Flow(jsons).map(msgspec.json.decode).select("x", y=lambda e: e["x"] * 2).with_columns(z="y").to(f"{name}-out")

    lab.produce(jsons.get_topic_name(), [(f"k{x}", {"x": x, "w": 0}) for x in range(5)])
    lab.produce(topic, [("even" if i % 2 == 0 else "odd", line) for i, line in enumerate(LINES)])
    lab.produce(topic, [("even", None)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        await lab.caught_up(jsons.get_topic_name(), app)
        await lab.until(lambda: all(map(at_rest(app, drain), FLOWS)), "flows at rest")

    groups = by_item()
    assert table_of(app, "totals") == {item: sum(s.amount for s in group) for item, group in groups.items()}
    assert table_of(app, "joined") == {
        item: {"item": item, "amount": sum(s.amount for s in group), "user": max(s.user for s in group)}
        for item, group in groups.items()
    }
    odd = {item: [s.amount for s in group if s.amount % 2] for item, group in groups.items()}
    assert table_of(app, "greatest-odd") == {item: max(amounts) for item, amounts in odd.items() if amounts}
    letters = [word for line in LINES for word in line.split(",")[::2]]
    assert table_of(app, "letters") == {word: letters.count(word) * len(word) for word in letters}
    for user, value in table_of(app, "by-user").items():
        group = [s for s in SALES if s.user == user]
        amounts = [s.amount for s in group]
        assert value["sales"] == len(group)
        assert (value["sold"], value["least"], value["most"]) == (sum(amounts), min(amounts), max(amounts))
        assert value["mean"] == fmean(amounts)
        assert value["items"] == len({s.item for s in group})
        assert value["amounts"] == pytest.approx(len(set(amounts)), rel=0.05)
        assert [element["amount"] for element in value["best"]] == sorted(amounts, reverse=True)[:2]
    assert table_of(app, "by-own-key") == {
        "even": {"lines": 150, "longest": max(map(len, LINES[::2]))},
        "odd": {"lines": 150, "longest": max(map(len, LINES[1::2]))},
    }
    sent = {m.key(): msgspec.json.decode(m.value()) for m in drain(f"{name}-out")}
    assert sent == {f"k{x}".encode(): {"x": x, "y": 2 * x, "z": 2 * x} for x in range(5)}


def test_the_name_of_a_field_does_for_map_and_filter() -> None:
    elements: Any = [{"paid": True, "amount": 3}, {"paid": False, "amount": 4}]
    for step in Flow(None).filter("paid").map("amount").steps:
        elements = step.function()[0](elements)
    assert list(elements) == [3]


@pytest.mark.parametrize("declared", [None, Sale])
async def test_packed_batches_go_through_flows_by_column_and_their_dirty_rows_go_alone(
    lab, record, table_of, drain, monkeypatch, declared: Any
) -> None:
    """p0: packed 600, one amount and one user null │ plain 3 │ packed 600      p1: packed 600

    The flow "odd" of plain functions and the column ways of the others meet the same rows.
    """
    monkeypatch.setattr(Combiner, "by_column", counted := Counted(Combiner.by_column))
    monkeypatch.setattr(Combiner, "piece", waiting := Counted(Combiner.piece))
    topic, app = lab.topic(2), lab.app(lab.fresh("app"), topic_partitions=2)
    source = app.topic(topic, value_type=declared)
    source.map(col("amount") * 2).reduce(sum, "doubled")
    source.filter(col("amount") % 10 > 1).key_by("user", "amount").reduce(max, "greatest")
    source.filter(lambda sale: amount_of(sale) % 2).aggregate("odd", n=Count())
    source.key_by("user").aggregate("by-user", n=Count(), spent=Sum("amount"), items=ApproxDistinct("item"))

    rows = [[{"item": f"i{p}{n % 11}", "amount": n, "user": f"u{n % 5}"} for n in range(600)] for p in (0, 1)]
    dirty: list[dict[str, Any]] = [{**row} for row in rows[0]]
    dirty[7]["amount"] = dirty[9]["user"] = None
    made = {p: pack(pa.RecordBatch.from_pylist(rows[p]), key="item") for p in (0, 1)}
    with_dirt = pack(pa.RecordBatch.from_pylist(dirty), key="item")
    plain = [record(row, row["item"], 1_000, None, 0) for row in rows[0][:3]]
    lab.produce(
        topic,
        [
            record(with_dirt.value, None, 1_000, with_dirt.headers, 0),
            *plain,
            *(record(made[p].value, None, 1_000, made[p].headers, p) for p in (0, 1)),
        ],
    )
    async with lab.running(app):
        await lab.caught_up(topic, app)
        await lab.until(lambda: all(map(at_rest(app, drain), ("greatest", "by-user"))), "flows at rest")

    clean = [row for row in dirty if None not in row.values()]
    whole = [*rows[0][:3], *rows[0], *rows[1]]
    every = [*clean, *whole] if declared else [*(row for row in dirty if row["amount"] is not None), *whole]
    doubled: dict[str, int] = defaultdict(int)
    for row in every:
        doubled[row["item"]] += 2 * row["amount"]
    assert table_of(app, "doubled") == doubled
    odd = Counter(row["item"] for row in every if row["amount"] % 2)
    assert table_of(app, "odd") == {item: {"n": n} for item, n in odd.items()}
    users = sorted({row["user"] for row in [*clean, *whole]})
    by_user = {user: [row for row in [*clean, *whole] if row["user"] == user] for user in users}
    large = {user: [row["amount"] for row in group if row["amount"] % 10 > 1] for user, group in by_user.items()}
    assert table_of(app, "greatest") == {user: max(amounts) for user, amounts in large.items() if amounts}
    found = table_of(app, "by-user")
    n_of = Counter({user: len(group) for user, group in by_user.items()})
    if not declared:
        n_of[dirty[7]["user"]] += 1  # None counts as nothing, and is counted
    assert {user: value["n"] for user, value in found.items()} == n_of
    assert {user: value["spent"] for user, value in found.items()} == {
        user: sum(row["amount"] for row in group) for user, group in by_user.items()
    }
    assert found["u1"]["items"] == pytest.approx(len({row["item"] for row in by_user["u1"]}), rel=0.05)
    letters = Counter(dict(letter.headers())["anabranch-row"] for letter in drain(f"{topic}.dlq"))
    # Decoding refuses both rows for each of four agents, else each flow what it has no use for.
    assert letters == ({b"7": 4, b"9": 4} if declared else {b"7": 3, b"9": 2})
    assert (
        counted.by_column + waiting.by_column >= 9
    )  # three flows; more where the epoch is done again because of the fourth
    # A declared type refuses the dirty rows: each flow processes their batch by column once they are decoded and gone.
    assert (counted.in_doubt, waiting.in_doubt) == ((3, 1) if declared else (0, 0))


# An epoch ends when it is told to.
PATIENT = EngineSettings(session_timeout_ms=6_000, epoch_s=600.0, commit_share=1e-6)


async def hurried(lab: Any, topic: str, app: Any) -> None:
    """All of the topic is committed."""
    ends = lab.ends(topic)

    def done() -> bool:
        if all(runtime_of(app).status.committed.get(TopicPartition(topic, p), 0) >= end for p, end in ends.items()):
            return True
        engine = runtime_of(app).engine
        if not engine._commits.under_way:  # else the next epoch would be hurried
            engine.hurry()
        return False

    await lab.until(done, f"all of {topic} committed")


def pending_in(table: Any) -> set[int]:
    """The partitions with batches that are not folded yet."""
    return {number for number, partition in table.uncommitted.partitions.items() if partition.pending}


async def test_packed_batches_of_an_epoch_are_folded_as_one_and_others_see_them_at_once(
    lab, record, table_of, drain, monkeypatch
) -> None:
    """p0: packed 600, row 7 dirty │ 600 │ "look" │ 600      p1: packed 600; somebody else has written text at a key"""
    monkeypatch.setattr(Combiner, "grouped", counted := Counted(Combiner.grouped))
    topic, other = lab.topic(2), lab.topic(2, "other")
    app = lab.app(lab.fresh("app"), topic_partitions=2, settings=PATIENT)
    sums = app.topic(topic).map(col("amount")).reduce(sum, "sums")
    seen: list[Any] = []

    @app.agent(app.topic(other, value_type=str))
    async def looks(stream):
        async for text in stream:
            if text == "look":
                seen.append(dict(sums.items()))
            else:
                sums["x3"] = text
                sums["mine"] = 1

    rows = [{"item": f"i{n % 11}", "amount": n} for n in range(600)]
    dirty = [{**row, "amount": None if n == 7 else row["amount"]} for n, row in enumerate(rows)]
    apart = [{**row, "item": row["item"].replace("i", "x")} for row in rows]
    good, bad, one = (pack(pa.RecordBatch.from_pylist(found), key="item") for found in (rows, dirty, apart))
    each: Counter[str] = Counter()
    for row in rows:
        each[row["item"]] += row["amount"]
    twice = {item: 2 * total - 7 * (item == "i7") for item, total in each.items()}

    async with lab.running(app):
        lab.produce(topic, [record(made.value, None, 1_000, made.headers, 0) for made in (bad, good)])
        await lab.until(
            lambda: runtime_of(app).status.records_total == 1_200 and pending_in(sums) == {0},
            "two batches that wait",
        )
        assert runtime_of(app).status.commits_total == 0 and dict(sums.items()) == {}
        lab.produce(other, [record("look", None, 1_000, None, 0)])
        await lab.until(lambda: seen, "a look at the table")
        assert seen == [twice]
        await hurried(lab, topic, app)
        assert counted.by_column == 1 and dict(sums.items()) == twice
        # From here on a number meets text: the records that do fail, alone.
        lab.produce(other, [record("text", None, 1_000, None, 1)])
        await lab.until(lambda: runtime_of(app).status.records_total == 1_202, "text in the table")
        lab.produce(topic, [record(made.value, None, 1_000, made.headers, p) for p, made in enumerate((good, one))])
        await hurried(lab, topic, app)
    letters = Counter(dict(letter.headers())["anabranch-offset"] for letter in drain(f"{topic}.dlq"))
    # Row 7 of the first in partition 0, and of the first in partition 1 those whose key has text.
    assert letters == {b"0": 1 + sum(row["item"] == "x3" for row in apart)}
    assert table_of(app, "sums") == {
        **{item: total + each[item] for item, total in twice.items()},
        **{item.replace("i", "x"): total for item, total in each.items()},
        "x3": "text",
        "mine": 1,
    }


async def test_a_worker_killed_while_batches_wait_counts_them_once(lab, record, table_of) -> None:
    topic, name = lab.topic(2), lab.fresh("app")
    rows = [{"item": f"i{n % 300}", "amount": n} for n in range(900)]

    def app() -> Any:
        made = lab.app(name, topic_partitions=2, settings=PATIENT)
        return made, made.topic(topic).map(col("amount")).reduce(sum, "sums")

    def send(batches: int) -> None:
        found = [
            pack(pa.RecordBatch.from_pylist([{**row, "item": f"{row['item']}-{p}"} for row in rows]), key="item")
            for p in (0, 1)
        ]
        lab.produce(
            topic, [record(found[n % 2].value, None, 1_000, found[n % 2].headers, n % 2) for n in range(batches)]
        )

    first, sums = app()
    send(8)
    worker = await lab.started(first)
    await lab.until(lambda: pending_in(sums) == {0, 1}, "batches that wait")
    await hurried(lab, topic, first)
    send(6)
    await lab.until(lambda: pending_in(sums) == {0, 1}, "further ones")
    await lab.kill(first, worker)
    again, _ = app()
    async with lab.running(again):
        await hurried(lab, topic, again)
    once: Counter[str] = Counter()
    for row in rows:
        once[row["item"]] += row["amount"]
    assert table_of(again, "sums") == {f"{item}-{p}": 7 * total for item, total in once.items() for p in (0, 1)}


def amount_of(sale: Any) -> int:
    return sale["amount"] if isinstance(sale, dict) else sale.amount


class Counted:
    """Counts how many batches went by column, and how many could not."""

    def __init__(self, columns: Any) -> None:
        self._columns, self.by_column, self.in_doubt = columns, 0, 0

    def __get__(self, fold: Any, _: Any) -> Any:
        def call(*args: Any) -> Any:
            done = self._columns(fold, *args)
            self.by_column += done is not None
            self.in_doubt += done is None
            return done

        return call


async def test_a_record_that_a_function_refuses_goes_to_the_dead_letters_alone(lab, table_of, drain) -> None:
    topic, app = lab.topic(1), lab.app(lab.fresh("app"), topic_partitions=1)
    app.topic(topic, value_type=str).map(parse).key_by().reduce(sum, "totals")
    lab.produce(topic, ["a,1", "b,2", "a,x", "a,3", "b"])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        await lab.until(lambda: table_of(app, "totals") == {"a": 4, "b": 2}, "the totals")
    assert [m.value() for m in drain(f"{topic}.dlq")] == [b"a,x", b"b"]


def test_a_flow_that_makes_no_sense_says_so(lab) -> None:
    lines = lab.app(lab.fresh("app")).topic("lines", value_type=str)
    for wrong in (
        lambda: lines.key_by("a").map(str),
        lambda: lines.key_by("a").key_by("b"),
        lambda: lines.aggregate("t"),
        lambda: lines.aggregate("t", n=sum),
        lambda: lines.reduce(Count()),
        lambda: lines.aggregate("t", top=Top("a", 0)),
        lambda: lines.aggregate("t", n=ApproxDistinct("a", 3)),
    ):
        with pytest.raises(Usage) as caught:
            wrong()
        assert caught.value.hint


async def test_a_partial_result_that_cannot_be_sent_costs_only_its_own_record(lab, table_of, drain) -> None:
    """It is found at the barrier, between records; then the records are reprocessed, each with its own results."""

    def keyed(line: str) -> tuple[str, Any]:
        return line[0], {"a-bad": 1j, "a-nan": math.nan, "b-inf": math.inf}.get(line, -0.0 if line == "c" else 1)

    topic, app = lab.topic(1), lab.app(lab.fresh("app"), topic_partitions=1)
    app.topic(topic, value_type=str).map(keyed).key_by().reduce(sum, "totals")
    lab.produce(topic, ["a", "b", "a-bad", "a", "a-nan", "b", "c", "b-inf"])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        await lab.until(lambda: at_rest(app, drain)("totals"), "the flow at rest")
    assert table_of(app, "totals") == {"a": 2, "b": 2, "c": 0}
    letters = drain(f"{topic}.dlq")
    assert [letter.value() for letter in letters] == [b"a-bad", b"a-nan", b"b-inf"]
    assert b"finite" in dict(letters[1].headers())["anabranch-error"]


@pytest.mark.parametrize(
    "how", [PairReducer(min), PairReducer(max), *(AggregateReducer({"x": h}) for h in (Min(), Max(), Top()))]
)
def test_what_is_in_no_order_is_refused_wherever_it_comes(how: Any) -> None:
    """Else the least of NaN and 1 would depend on which of them came first."""
    for numbers in ([math.nan, 1.0], [1.0, math.nan]):
        with pytest.raises(ValueError, match="NaN"):
            reduced(((None, n) for n in numbers), how.start, how.add)


def test_partial_results_of_an_epoch_are_one_record_a_key() -> None:
    effects = Outbox()
    partials = effects.partials["t"] = Partials(
        lambda states, at_ms: [
            Output("t", str(n).encode(), key.encode(), -1, at_ms, None) for key, n in states.items()
        ],
    )
    how = PairReducer(sum)
    for at_ms, pairs in ((5, [("b", 1), ("a", 2)]), (9, [("a", 3)]), (7, [("c", 4), ("b", 5)])):
        partials.note_time(at_ms)
        reduced(pairs, how.start, how.add, partials.states)
    assert len(effects) == 3
    assert [(o.key, o.value, o.timestamp_ms) for o in effects.all()] == [
        (b"b", b"6", 9),
        (b"a", b"5", 9),
        (b"c", b"4", 9),
    ]
    effects.clear()
    assert not effects.all() and len(effects) == 0


NUMBERS = st.lists(st.integers(-100, 100), min_size=1, max_size=30)
HOWS: list[Aggregate] = [Count(), Sum(), Min(), Max(), Mean(), Distinct(), Top(None, 3), ApproxDistinct(None, 4)]


@given(NUMBERS, st.data())
def test_however_elements_are_grouped_the_result_is_one(numbers: list[int], data: Any) -> None:
    """Elements one by one, against partial results of random groups that meet in random order, stored in between."""
    how = AggregateReducer({str(i): each for i, each in enumerate(HOWS)})
    alone = reduced(((None, n) for n in numbers), how.start, how.add)[None]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(numbers)), max_size=4)) | {0, len(numbers)})
    groups = [numbers[a:b] for a, b in pairwise(cuts) if a < b]
    parts = [reduced(((None, n) for n in group), how.start, how.add)[None] for group in groups]
    parts = data.draw(st.permutations(parts))
    stored: Any = None
    for part in parts:
        part = msgspec.json.decode(msgspec.json.encode(part))  # as through a repartition topic
        state = part if stored is None else how.merge(how.opened(stored), part)
        stored = msgspec.json.decode(msgspec.json.encode(how.stored(state)))
    assert stored == msgspec.json.decode(msgspec.json.encode(how.stored(alone)))


@given(NUMBERS)
def test_a_reduction_of_batches_is_that_of_the_elements(numbers: list[int]) -> None:
    join = PairReducer(lambda a, b: a + b)
    halves = [numbers[::2], numbers[1::2]]
    parts = [reduced(((None, n) for n in half), join.start, join.add)[None] for half in halves if half]
    assert reduced(((None, p) for p in parts), lambda s: s, join.merge)[None] == sum(numbers)


@pytest.mark.parametrize(
    ("precision", "count"), [(12, 0), (12, 1), (12, 150), (12, 20_000), (8, 300), (8, 20_000), (14, 20_000)]
)
def test_a_sketch_errs_as_it_says(precision: int, count: int) -> None:
    """Three times the standard error; hashes are the same everywhere, so is the estimate."""
    how = ApproxDistinct(None, precision)
    halves = [reduce(how.add, (f"user-{i}" for i in range(begin, count, 2)), how.zero()) for begin in (0, 1)]
    once = reduce(how.add, (f"user-{i}" for i in range(count)), how.zero())
    assert how.merge(*halves) == once == how.merge(once, halves[0])
    assert abs(how.result(once) - count) <= 3 * 1.04 / 2 ** (precision / 2) * count


def test_a_sketch_counts_what_is_equal_once_and_none_never() -> None:
    how = ApproxDistinct()
    assert how.result(reduce(how.add, [1, 1.0, True, None, "1", [1], 2.5, 2.5], how.zero())) == 4
