"""Chains of windows: closed windows of one table, reduced again in another one, are what a dumb twin says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anabranch
import pytest
from anabranch import Count, Hopping, Max, Mean, Sessions, Sum, Tumbling, World
from anabranch.agents.flows import window_closer
from anabranch.agents.flows.watermarked_partials import WatermarkedPartials
from anabranch.replay.dead_letters.dead_letter_reader import DeadLetterFilter
from anabranch.replay.dead_letters.republisher import Republisher
from anabranch.replay.testing.simulation import Simulation
from anabranch.replay.testing.topic_content import TopicContent, content_of
from anabranch.topics.errors import Usage
from anabranch.topics.output import Output
from hypothesis import given
from hypothesis import strategies as st
from test_random_windows import KINDS, LOGS, PLAIN, SECOND, STEPS, examples, late_of
from window_twin import Kind, Sale, closed_by, computed

START = "2026-01-31T12:00:00Z"
START_MS = 1_769_860_800_000

Row = tuple[Any, int, int]
Values = tuple[int, int]

PROGRAM = """
import anabranch
from anabranch import Count, Cumulating, Hopping, Sessions, Sum, Tumbling

app = anabranch.App("chain", topic_partitions={partitions})
sales = app.topic("sales", time="at", grace={grace}, max_jump={max_jump}, idle_after=None, partitions={partitions})
flow = sales.key_by("user") if {by_key} else sales.flow()
first = flow.window({first}).aggregate("first", total=Sum("price"))
first.final().to(app.topic("firsts", partitions=1))
closed = first.final().filter(lambda window: window["total"] != 7)
second = closed{behind}.aggregate("second", n=Count(), total=Sum("total"))
second.final().to(app.topic("seconds", partitions=1))
"""

GROUPS = {"a0": "x", "b0": "x", "a": "x", "b": "x"}  # other users are `y`


@dataclass(frozen=True)
class Chain:
    """A program with two tables.

    Attributes:
        grace, max_jump: of the topic, in milliseconds.
        by_key: whether a repartition topic is between the topic and the first table.
        key: the key of the second table: `end`, `group` of the user, or `own`.
        second: its windows; None: those of the first.
    """

    first: Kind
    grace: int
    max_jump: int | None
    by_key: bool
    key: str
    second: Kind | None

    def program(self, partitions: int) -> str:
        group = f"lambda window: {GROUPS}.get(window['key'], 'y')"
        behind = {"end": ".key_by('end')", "group": f".key_by({group})", "own": ""}[self.key]
        if self.second is not None:
            behind += f".window({written(self.second)})"
        return PROGRAM.format(
            partitions=partitions,
            grace=self.grace / SECOND,
            max_jump=None if self.max_jump is None else self.max_jump / SECOND,
            by_key=self.by_key,
            first=written(self.first),
            behind=behind,
        )

    def app(self, partitions: int) -> anabranch.App:
        names: dict[str, Any] = {}
        exec(self.program(partitions), names)
        return names["app"]

    def expected(self, logs: Sequence[Sequence[Sale]], *, end: bool = False) -> Expected:
        """Return what the twin says of the logs of all partitions."""
        groups = [logs] if self.by_key else [[log] for log in logs]
        rows: dict[Row, Values] = {}
        closed: dict[Row, Values] = {}
        watermarks: list[int | None] = []
        late: list[tuple[int, int]] = []
        for number, group in enumerate(groups):
            result = computed(group, self.first, self.grace, self.max_jump)
            known = [watermark for watermark in result.watermarks if watermark is not None]
            least = min(known) if known and len(known) == len(group) else None
            watermarks.append(least)
            late += result.late if self.by_key else [(number, place) for _, place in result.late]
            rows |= result.rows
            if end or least is not None:
                closed |= {row: result.rows[row] for row in closed_by(result, self.first, None if end else least)}
        second = self._second({row: total for row, (_, total) in closed.items() if total != 7})
        times = [time for time in watermarks if time is not None]
        # Of sessions, the time that is passed on is a gap behind.
        hold = self.first.size if self.first.name == "sessions" else 0
        time = min(times) - hold if len(times) == len(watermarks) else None
        done = set(second) if end else {row for row in second if time is not None and self._closes_after(row) < time}
        firsts = {row: total for row, (_, total) in closed.items()}
        return Expected(firsts, second, {row: second[row] for row in done}, sorted(late))

    def _second(self, closed: dict[Row, int]) -> dict[Row, Values]:
        keys = {row: self._key(row) for row in closed}
        if self.second is not None:
            finals = [Sale(row[2] - 1, keys[row], total) for row, total in closed.items()]
            result = computed([sorted(finals, key=lambda sale: sale.at or 0)], self.second, 0, None)
            assert not result.late
            return dict(result.rows)
        found: dict[Row, Values] = {}
        for row, total in closed.items():
            n, before = found.get((keys[row], *row[1:]), (0, 0))
            found[keys[row], *row[1:]] = n + 1, before + total
        return found

    def _key(self, row: Row) -> Any:
        return {"end": row[2], "group": GROUPS.get(row[0], "y"), "own": row[0]}[self.key]

    def _closes_after(self, row: Row) -> int:
        return row[2] - 1 if self.second is None else self.second.closes_after(row[2])


@dataclass(frozen=True)
class Expected:
    """The results that logs lead to.

    Attributes:
        firsts: closed windows of the first table.
        second: the rows of the second table.
        seconds: those that are closed.
        late: (partition, place) of late records.
    """

    firsts: dict[Row, int]
    second: dict[Row, Values]
    seconds: dict[Row, Values]
    late: list[tuple[int, int]]


def written(kind: Kind) -> str:
    return f"{type(kind.windows).__name__}({', '.join(str(ms / SECOND) for ms in (kind.size, kind.step) if ms)})"


def told(content: TopicContent) -> list[tuple[Row, Values]]:
    return [((v["key"], v["start"], v["end"]), (v["n"], v["total"])) for v in content.values]


SECONDS = st.sampled_from(
    [
        None,
        Kind("tumbling", 60 * SECOND),
        Kind("tumbling", 14 * SECOND),
        Kind("hopping", 40 * SECOND, 20 * SECOND),
        Kind("sessions", 7 * SECOND),
    ]
)
CHAINS = st.builds(
    Chain,
    KINDS,
    st.sampled_from([0, 0, 2 * SECOND, 12 * SECOND]),
    st.sampled_from([None, 30 * SECOND]),
    st.booleans(),
    st.sampled_from(["end", "group", "own"]),
    SECONDS,
).filter(lambda chain: chain.second is not None or (chain.first.name != "sessions" and chain.key != "own"))


def play(chain: Chain, logs: Sequence[Sequence[Sale]], steps: list[tuple[str, int]]) -> Expected:
    """Run a world by a schedule."""
    places = [0] * len(logs)
    with World(lambda: chain.app(len(logs)), workers=2, start="2026-06-01T00:00Z") as world:
        world.settle()
        for number, (what, amount) in enumerate([*steps, *(("send", 99) for _ in logs), ("settle", 0)]):
            partition = (number if amount == 99 else amount) % len(logs)
            match what:
                case "send":
                    for place, sale in list(enumerate(logs[partition]))[places[partition] :][: amount + 1]:
                        value = {**sale._asdict(), "id": [partition, place]}
                        world.send("sales", value, key=sale.user, partition=partition)
                        places[partition] = place + 1
                case "settle":
                    world.settle()
                case "pause":
                    world.advance("20ms")
                case _:
                    worker = world.worker(amount % 2)
                    (worker.kill if what == "kill" else worker.stop)()
                    worker.start()
        assert places == list(map(len, logs))
        late = late_of(world)
        assert all(reason == "late" for _, reason in late), "a closed window was late for the second table"
        firsts = [((v["key"], v["start"], v["end"]), v["total"]) for v in world.topic("firsts").values]
        seconds = told(world.topic("seconds"))
        assert (len(firsts), len(seconds)) == (len(dict(firsts)), len(dict(seconds))), "a window was told twice"
        rows = {row: (value["n"], value["total"]) for row, value in world.table("second").items()}
        return Expected(dict(firsts), rows, dict(seconds), sorted((p, place) for (p, place), _ in late))


@examples(1, few=12)
@given(CHAINS, LOGS, STEPS, st.sampled_from([2, 20_000]))
def test_a_live_chain_comes_to_what_the_twin_says_whatever_the_schedule(
    chain: Chain, logs: list[list[Sale]], steps: list[tuple[str, int]], chunk: int
) -> None:
    if not chain.by_key:
        logs = [[sale._replace(user=f"{sale.user}{number}") for sale in log] for number, log in enumerate(logs)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window_closer, "_CHUNK", chunk)
        assert play(chain, logs, steps) == chain.expected(logs)


@examples(0.5, few=4)
@given(CHAINS, st.lists(PLAIN, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_a_bounded_run_closes_both_tables_in_any_order_number_of_partitions_and_form(
    tmp_path_factory: Any, chain: Chain, sales: list[Sale], chance: Any
) -> None:
    chain = Chain(chain.first, 90 * SECOND, None, chain.by_key, chain.key, chain.second)  # no record is late
    folder = tmp_path_factory.mktemp("run")
    expected = chain.expected([sales], end=True)
    assert expected.second == expected.seconds
    forms: list[dict[str, Any]] = [{"partitions": 1}, {"partitions": 3, "workers": 2}, {"partitions": 2, "pack": "lz4"}]
    for number, options in enumerate(forms):
        records = sales if number == 0 else chance.sample(sales, len(sales))
        assert run(folder, chain, records, **options) == expected


def run(folder: Path, chain: Chain, sales: Sequence[Sale], *, partitions: int, **options: Any) -> Expected:
    program, file = folder / "program.py", folder / "sales.jsonl"
    program.write_text(chain.program(partitions))
    file.write_text("".join(json.dumps(sale._asdict()) + "\n" for sale in sales))
    with World(str(program)) as world:
        done = world.run({"sales": file}, key="user", **options)
        late = content_of("late", world.environment.kafka.topics.get("chain-run-world1-sales.late"), None)
    rows = {row: (value["n"], value["total"]) for row, value in done.tables["second"].items()}
    firsts = {(v["key"], v["start"], v["end"]): v["total"] for v in done.topics["firsts"].values}
    seconds = told(done.topics["seconds"])
    assert (late.values, len(seconds)) == ([], len(dict(seconds)))
    return Expected(firsts, rows, dict(seconds), [])


# Time that is passed on ----------------------------------------------------------------------------------------------


def told_of(make: Any, sales: Sequence[tuple[int, str]], *, chunk: int = 20_000) -> list[tuple[Any, int, int]]:
    """Return key, end in seconds and `n` of what a second table tells of one partition's records."""

    def app() -> anabranch.App:
        app = anabranch.App("chain", topic_partitions=1)
        topic = app.topic("sales", time="at", time_unit="s", grace="0s", max_jump=None, idle_after=None, partitions=1)
        make(topic.key_by("user")).aggregate("second", n=Count()).final().to("told")
        return app

    with pytest.MonkeyPatch.context() as patch, World(app, start=START) as world:
        patch.setattr(window_closer, "_CHUNK", chunk)
        for at, user in sales:
            world.send("sales", {"at": START_MS // 1000 + at, "user": user})
            world.settle()
        with pytest.raises(Usage):
            world.topic("sales.late")
        return [(v["key"], (v["end"] - START_MS) // 1000, v["n"]) for v in world.topic("told").values]


def test_a_session_holds_time_back_by_its_gap() -> None:
    def make(flow: Any) -> Any:
        visits = flow.window(Sessions("5s")).aggregate("first", n=Count())
        return visits.final().key_by(lambda _: "all").window(Tumbling("10s"))

    # At 12, the session that has ended at 8 is open.
    sales = [(2, "ann"), (8, "bob"), (12, "cleo"), (16, "cleo"), (40, "cleo")]
    assert told_of(make, sales) == [
        ("all", 10, 2),
        ("all", 20, 1),
    ]


def test_time_is_passed_on_behind_windows_that_close_in_several_epochs() -> None:
    def make(flow: Any) -> Any:
        return flow.window(Tumbling("10s")).aggregate("first", n=Count()).final().key_by(lambda _: "all")

    users = [f"user {number}" for number in range(9)]
    assert told_of(make, [*((1, user) for user in users), (20, "ann")], chunk=2) == [("all", 10, 9)]


# Simulated faults ----------------------------------------------------------------------------------------------------


def app_of(*, by_key: bool = True, idle_after: str | None = None, partitions: int = 3) -> anabranch.App:
    """Visits by page in ten seconds, the most visited page of each of these, and the best of each minute."""
    app = anabranch.App("chain", topic_partitions=partitions)
    visits = app.topic("visits", time="at", time_unit="s", grace="5s", idle_after=idle_after, partitions=partitions)
    flow = visits.key_by("page") if by_key else visits.flow()
    pages = flow.window(Hopping("10s", "5s")).aggregate("by-page", n=Count())
    hottest = pages.final().key_by("end").top(2, "hottest", by="n")
    hottest.final().to("hottest")
    best = hottest.final().flat_map(lambda window: window["top"][:1]).key_by("key")
    best.window(Tumbling("1m")).aggregate("minutes", times=Count(), most=Max("n")).final().to("minutes")
    return app


def visits(count: int = 150) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"v{number}", {"at": START_MS // 1000 + number - number % 4, "page": f"p{number * number % 7}"})
        for number in range(count)
    ]


def of_visits(records: list[tuple[str, dict[str, Any]]]) -> tuple[dict[int, list[tuple[str, int]]], dict[Any, Any]]:
    """Return the two most visited pages by end, and how often a page was the first one, and with how many, by
    minute."""
    counts: dict[int, dict[str, int]] = {}
    for _, visit in records:
        at = visit["at"] * 1000
        for end in (at - at % 5_000 + 5_000, at - at % 5_000 + 10_000):
            pages = counts.setdefault(end, {})
            pages[visit["page"]] = pages.get(visit["page"], 0) + 1
    tops = {end: sorted(pages.items(), key=lambda page: (-page[1], page[0]))[:2] for end, pages in counts.items()}
    minutes: dict[Any, list[int]] = {}
    for end, top in tops.items():
        minutes.setdefault((top[0][0], (end - 1) - (end - 1) % 60_000), []).append(top[0][1])
    return tops, {key: (len(most), max(most)) for key, most in minutes.items()}


def tops_of(content: TopicContent) -> dict[int, list[tuple[str, int]]]:
    return {v["end"]: [(page["key"], page["n"]) for page in v["top"]] for v in content.values}


def minutes_of(content: TopicContent) -> dict[Any, Any]:
    return {(v["key"], v["start"]): (v["times"], v["most"]) for v in content.values}


def test_the_most_visited_page_of_each_window_in_a_bounded_run_with_three_tables(tmp_path: Path) -> None:
    program, file = tmp_path / "program.py", tmp_path / "visits.jsonl"
    program.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_window_chains import app_of\napp = app_of()\n"
    )
    records = visits()
    tops, minutes = of_visits(records)
    file.write_text("".join(json.dumps({"id": key, **visit}) + "\n" for key, visit in records))
    with World(str(program)) as world:
        for options in ({"workers": 2}, {"pack": "lz4"}):
            done = world.run({"visits": file}, key="id", **options)
            assert tops_of(done.topics["hottest"]) == tops
            assert minutes_of(done.topics["minutes"]) == minutes
            assert {end: (window, end - 10_000) for window, _, end in done.tables["hottest"]} == {
                end: (end, end - 10_000) for end in tops
            }


def test_worlds_with_faults_close_the_same_chains() -> None:
    simulation = Simulation(app_of, inputs={"visits": visits()}, seeds=8, faults="kill,abort,lost-answer,rebalance")
    assert simulation.same_as_without_faults().worlds == 8


# Idle partitions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_key", [True, False], ids=["by-key", "in-place"])
def test_the_last_windows_of_all_tables_close_in_silence(by_key: bool) -> None:
    with World(lambda: app_of(by_key=by_key, idle_after="20s"), start=START) as world:
        for seconds in (1, 3):
            world.send("visits", {"at": START_MS // 1000 + seconds, "page": "p0"}, key="p0", partition=0)
        world.settle()
        world.advance("1m")
        assert tops_of(world.topic("hottest")) == {START_MS + end: [("p0", 2)] for end in (5_000, 10_000)}
        assert not world.topic("minutes").values
        world.advance("1m")
        assert minutes_of(world.topic("minutes")) == {("p0", START_MS): (2, 2)}


@pytest.mark.parametrize("by_key", [True, False], ids=["by-key", "in-place"])
def test_a_partition_without_records_does_not_hold_a_chain_back_and_loses_nothing_when_it_has_some(
    by_key: bool,
) -> None:
    with World(lambda: app_of(by_key=by_key, idle_after="4s"), workers=2, start=START) as world:

        def visit(seconds: int, page: str, partition: int) -> None:
            world.send("visits", {"at": START_MS // 1000 + seconds, "page": page}, key=page, partition=partition)

        for seconds in range(0, 30, 2):
            visit(seconds, "p0", 0)
            world.advance("2s")
        world.settle()
        assert START_MS + 15_000 in tops_of(world.topic("hottest"))
        for seconds in range(30, 60, 2):
            visit(seconds, "p0", 0)
            visit(seconds, "p1", 1)
            visit(seconds, "p1", 1)
            world.advance("2s")
        world.advance("30s")
        tops = tops_of(world.topic("hottest"))
        assert tops[START_MS + 15_000] == [("p0", 5)]
        assert tops[START_MS + 50_000] == [("p1", 10), ("p0", 5)]
        assert sum(n for top in tops.values() for _, n in top) == 2 * (30 + 30)
        with pytest.raises(Usage):
            world.topic("visits.late")


@pytest.mark.parametrize("by_key", [True, False], ids=["by-key", "in-place"])
def test_the_last_windows_of_a_partition_count_although_it_is_idle_before_they_close(by_key: bool) -> None:
    def app() -> anabranch.App:
        app = anabranch.App("chain", topic_partitions=2)
        sales = app.topic("sales", time="at", time_unit="s", grace="0s", idle_after="5s", partitions=2)
        flow = sales.key_by("user") if by_key else sales.flow()
        first = flow.window(Tumbling("20s")).aggregate("first", n=Count())
        first.final().key_by("end").aggregate("second", total=Sum("n")).final().to("told")
        return app

    with World(app, start=START) as world:
        for seconds in range(0, 60, 2):
            for partition in (0, 1) if seconds <= 4 else (0,):
                sale = {"at": START_MS // 1000 + 10 * seconds, "user": "ab"[partition]}
                world.send("sales", sale, key="ab"[partition], partition=partition)
            world.advance("2s")
        world.advance("2m")
        told = {v["end"] - START_MS: v["total"] for v in world.topic("told").values}
        assert [told[20_000], told[40_000], told[60_000]] == [2, 2, 2]
        with pytest.raises(Usage):
            world.topic("sales.late")


def test_the_number_of_windows_that_are_passed_on_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says when an epoch is full. Each session has panes of its own, which are not all counted for each window."""
    sent: list[int] = []
    outputs = WatermarkedPartials.outputs

    def checked(partials: WatermarkedPartials) -> list[Output]:
        assert partials.count == sum(map(len, partials.states.values()))
        sent.append(partials.count)
        return outputs(partials)

    def app() -> anabranch.App:
        app = anabranch.App("chain", topic_partitions=1)
        sales = app.topic("sales", time="at", time_unit="s", grace="0s", idle_after=None, max_jump=None, partitions=1)
        first = sales.flow().window(Sessions("5s")).aggregate("first", n=Count())
        each = first.final().flat_map(lambda window: [{"k": "all", **window}, {"k": window["key"], **window}])
        each.key_by("k").window(Sessions("5s")).aggregate("second", total=Sum("n")).final().to("told")
        return app

    monkeypatch.setattr(WatermarkedPartials, "outputs", checked)
    with World(app, start=START) as world:
        for number in range(30):
            world.send("sales", {"at": START_MS // 1000 + 7 * (number // 3)}, key=f"u{number % 3}")
        world.settle()
        told = world.topic("told").values
    assert sum(v["total"] for v in told if v["key"] == "all") == sum(v["total"] for v in told if v["key"] != "all") > 20
    assert max(sent) > 10


# What fails, and what is refused -------------------------------------------------------------------------------------


def test_a_window_that_cannot_be_passed_on_is_a_dead_letter_and_the_others_count() -> None:
    def app() -> anabranch.App:
        app = anabranch.App("chain", topic_partitions=2)
        sales = app.topic("sales", time="at", time_unit="s", grace="0s", idle_after=None, partitions=2)
        first = sales.key_by("user").window(Tumbling("10s")).aggregate("first", n=Count())
        fragile = first.final().map(lambda window: {**window, "n": 6 // (window["key"] != "bad")})
        fragile.key_by("end").aggregate("second", total=Sum("n"), mean=Mean("n")).final().to("told")
        return app

    with World(app, workers=2, start=START) as world:
        for partition in (0, 1):
            for seconds in (1, 2, 12, 13, 30, 31):
                for user in ("good", "bad", "better"):
                    sale = {"at": START_MS // 1000 + seconds, "user": user}
                    world.send("sales", sale, key=user, partition=partition)
        world.settle()
        assert {v["end"] - START_MS: (v["total"], v["mean"]) for v in world.topic("told").values} == {
            10_000: (12, 6.0),
            20_000: (12, 6.0),
        }
        letters = world.dead_letters("sales")
        assert sorted((letter.value["key"], letter.value["end"] - START_MS) for letter in letters) == [
            ("bad", 10_000),
            ("bad", 20_000),
        ]


def test_a_retry_topic_is_no_partition_that_the_second_table_waits_for() -> None:
    fails = {11}

    def app() -> anabranch.App:
        app = anabranch.App("chain", topic_partitions=2)
        sales = app.topic("sales", time="at", time_unit="s", grace="1m", idle_after=None, partitions=2)

        def checked(sale: dict[str, Any]) -> dict[str, Any]:
            if sale["at"] in fails:
                raise ValueError("not yet")
            return sale

        first = sales.map(checked).window(Tumbling("10s")).aggregate("first", n=Count())
        first.final().key_by("end").aggregate("second", total=Sum("n")).final().to("told")
        return app

    def send(*times: int) -> None:
        for at in times:
            for partition in (0, 1):
                world.send("sales", {"at": at}, key="ab"[partition], partition=partition)
        world.settle()

    with World(app) as world:
        send(1, 11, 71)
        fails.clear()
        with world.environment.entered():
            assert Republisher(world.environment.kafka.cluster(), "sales.dlq").republish(DeadLetterFilter()).sent == 2
        world.worker().kill()  # it looks for retry topics when it starts
        world.worker().start()
        world.settle()
        send(91, 151, 271)
        told = {v["end"] // 1000: v["total"] for v in world.topic("told").values}
        assert told == {10: 2, 20: 2, 80: 2, 100: 2, 160: 2}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda table: table.updates("1s").key_by("end"), r"behind updates\(\): a window that has changed"),
        (lambda table: table.updates("1s").window(Tumbling("1m")), r"behind updates\(\)"),
        (lambda table: table.final().aggregate(n=Count()), "which windows belong together"),
        (lambda table: table.final().window(Tumbling("1m"), grace="1s"), "never come out of order"),
        (lambda table: table.final().window("1m"), "window\\('1m'\\)"),
        (lambda table: table.final().key_by("end").map(len), "between key_by and the end"),
        (lambda table: table.final().key_by("end").key_by("start"), "key_by twice"),
        (lambda table: table.final().key_by("end").top(0, by="n"), "at least 1"),
        (lambda table: table.final().key_by("end").aggregate(end=Count()), "fields of that name"),
    ],
)
def test_what_a_chain_cannot_do_is_refused_in_one_sentence(make: Any, says: str) -> None:
    sales = anabranch.App("chain").topic("sales", grace="0s")
    table = sales.key_by("user").window(Tumbling("10s")).aggregate("first", n=Count())
    with pytest.raises(Usage, match=says):
        make(table)


def test_sessions_need_windows_that_say_which_of_them_belong_together() -> None:
    sales = anabranch.App("chain").topic("sales", grace="0s")
    table = sales.key_by("user").window(Sessions("10s")).aggregate("first", n=Count())
    with pytest.raises(Usage, match="sessions of several keys"):
        table.final().key_by("end").top(1, by="n")


def test_closed_windows_are_sent_with_another_key() -> None:
    def app() -> anabranch.App:
        app = anabranch.App("chain", topic_partitions=1)
        sales = app.topic("sales", time="at", time_unit="s", grace="0s")
        table = sales.window(Tumbling("10s")).aggregate("first", n=Count())
        table.final().key_by("n", "start").to("by-n")
        return app

    with World(app, start=START) as world:
        for seconds in (1, 2, 11):
            world.send("sales", {"at": START_MS // 1000 + seconds}, key="ann")
        world.settle()
        assert [(record.key, record.value) for record in world.topic("by-n").records] == [(b"2", START_MS)]
