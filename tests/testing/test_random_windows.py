"""Random logs in random worlds: the engine and a dumb twin (`window_twin.py`) come to the same, whatever the schedule.

`ANABRANCH_FUZZ_S` is the number of seconds that `make faults` gives each of these tests; without it they take a few.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anabranch
import polars
import pytest
from anabranch import Count, Sum, World
from anabranch.agents.event_time.channel import Channel
from anabranch.agents.tables.store import Changes, MemoryStore
from anabranch.agents.tables.window_content import WindowContent
from anabranch.agents.tables.window_table import WindowTable, window_contents
from anabranch.replay.testing.topic_content import content_of
from anabranch.topics.errors import Usage
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from window_twin import Kind, Result, Sale, closed_by, computed, stream_times

SECONDS = float(os.environ.get("ANABRANCH_FUZZ_S", "0"))
pytestmark = pytest.mark.timeout(180 + 8 * SECONDS)
START_MS = 1_769_860_800_000
SECOND = 1_000
PHASES = [phase for phase in Phase if phase is not Phase.shrink]


def examples(a_second: float, few: int) -> Any:
    """Settings with so many examples, or as many as about fit into the seconds that are given."""
    number = int(SECONDS * a_second) or few
    return settings(max_examples=number, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)


KINDS = st.sampled_from(
    [
        Kind("tumbling", 10 * SECOND),
        Kind("hopping", 10 * SECOND, 5 * SECOND),
        Kind("hopping", 10 * SECOND, 4 * SECOND),
        Kind("cumulating", 12 * SECOND, 4 * SECOND),
        Kind("sessions", 5 * SECOND),
    ]
)
TIMES = st.integers(0, 60) | st.integers(0, 60) | st.sampled_from([400, 420, 5_000])
SALES = st.builds(
    Sale,
    st.one_of(*[TIMES.map(lambda at: START_MS + at * SECOND)] * 9, st.none()),
    st.sampled_from("abc"),
    st.one_of(*[st.integers(1, 9)] * 9, st.just("free")),
)
LOGS = st.lists(st.lists(SALES, max_size=14), min_size=1, max_size=3)
STEPS = st.lists(
    st.tuples(st.sampled_from(["send", "send", "send", "settle", "pause", "kill", "stop"]), st.integers(0, 5)),
    max_size=14,
)


@dataclass(frozen=True)
class Case:
    """Logs, and an app with windows that reads them.

    Attributes:
        logs: the records of each partition.
        grace, max_jump: in milliseconds.
        by_key: whether a repartition topic is between the logs and the windows.
    """

    logs: Sequence[Sequence[Sale]]
    kind: Kind
    grace: int
    max_jump: int | None
    by_key: bool

    def app(self) -> anabranch.App:
        app = anabranch.App("random", topic_partitions=len(self.logs))
        jump = None if self.max_jump is None else self.max_jump / SECOND
        sales = app.topic(
            "sales",
            time="at",
            grace=self.grace / SECOND,
            max_jump=jump,
            idle_after=None,
            partitions=len(self.logs),
        )
        keyed = sales.key_by("user") if self.by_key else sales.flow()
        # One gatherer, so that the order in which windows close is that of their ends.
        one: Any = {"options": {"partitions": 1}} if self.by_key else {}
        table = keyed.window(self.kind.windows).aggregate("windows", n=Count(), total=Sum("price"), **one)
        table.final().to(app.topic("finals", partitions=1))
        return app

    @property
    def results(self) -> list[Result]:
        """The results of the twin: one of all partitions together, or one of each."""
        logs = [self.logs] if self.by_key else [[log] for log in self.logs]
        return [computed(some, self.kind, self.grace, self.max_jump) for some in logs]


def earlier(logs: list[list[Sale]], by_ms: int) -> list[list[Sale]]:
    return [[sale if sale.at is None else sale._replace(at=sale.at - by_ms) for sale in log] for log in logs]


CASES = st.builds(
    Case,
    st.builds(earlier, LOGS, st.sampled_from([0, 0, START_MS + 30 * SECOND])),  # some before 1970, some behind it
    KINDS,
    st.sampled_from([0, 0, 2 * SECOND, 12 * SECOND]),
    st.sampled_from([None, 30 * SECOND]),
    st.booleans(),
).map(lambda case: case if case.by_key else in_place(case))


def in_place(case: Case) -> Case:
    """Give each partition keys of its own: a key of two partitions would be two rows of one name."""
    logs = [[sale._replace(user=f"{sale.user}{number}") for sale in log] for number, log in enumerate(case.logs)]
    return Case(logs, case.kind, case.grace, case.max_jump, by_key=False)


Prefix = tuple[list[int], dict[int, tuple[bytes, Any]]]


def play(case: Case, steps: list[tuple[str, int]]) -> tuple[dict[Any, Any], list[Any], list[Any]]:
    """Run a world by a schedule; return the table, the closed windows in their order, and the late records."""
    places, prefixes = [0] * len(case.logs), list[Prefix]()
    # Later than all records: in Kafka, none is from the future.
    with World(case.app, workers=2, start="2026-06-01T00:00Z") as world:
        world.settle()
        for number, (what, amount) in enumerate([*steps, *(("send", 99) for _ in case.logs), ("settle", 0)]):
            partition = (number if amount == 99 else amount) % len(case.logs)
            match what:
                case "send":
                    for place, sale in list(enumerate(case.logs[partition]))[places[partition] :][: amount + 1]:
                        value = {**sale._asdict(), "id": [partition, place]}
                        world.send("sales", value, key=sale.user, partition=partition)
                        places[partition] = place + 1
                case "settle":
                    world.settle()
                    prefixes.append(prefix_of(world))
                case "pause":
                    world.advance("20ms")
                case _:
                    worker = world.worker(amount % 2)
                    (worker.kill if what == "kill" else worker.stop)()
                    worker.start()
        for partition in range(len(case.logs)):
            assert places[partition] == len(case.logs[partition])
        late = late_of(world)
        assert all(reason == "late" for _, reason in late), "a record on time met a closed window"
        finals = [((v["key"], v["start"], v["end"]), (v["n"], v["total"])) for v in world.topic("finals").values]
        check_restores(world, prefixes)
        rows = {row: (value["n"], value["total"]) for row, value in world.table("windows").items()}
        return rows, finals, sorted(tuple(record) for record, _ in late)


def late_of(world: World) -> list[tuple[list[int], str]]:
    try:
        records = world.topic("sales.late").records
    except Usage:  # there are none
        return []
    return [(record.value["id"], dict(record.headers)["anabranch-reason"].decode()) for record in records]


# Restores ------------------------------------------------------------------------------------------------------------


def contents(world: World) -> dict[int, WindowContent]:
    found: dict[int, WindowContent] = {}
    for number in range(2):
        found |= window_contents(world.worker(number).app.tables["windows"])
    return found


def prefix_of(world: World) -> Prefix:
    """Return how long the changelog is, and what partitions know now."""
    logs = world.environment.kafka.topics["random-windows-changelog"].logs
    states: dict[int, tuple[bytes, Any]] = {}
    for partition, content in contents(world).items():
        content.load()
        states[partition] = content._written, sorted_open(content)
    return [log.end for log in logs], states


def sorted_open(content: WindowContent) -> list[Any]:
    return sorted(key for keys in content.open._open.values() for key in keys)


def check_restores(world: World, prefixes: list[Prefix]) -> None:
    """Check that what was known at an epoch's end is what a restore up to there finds."""
    table = world.app.tables["windows"]
    assert isinstance(table, WindowTable)
    logs = world.environment.kafka.topics[table.changelog_name].logs
    for ends, states in prefixes:
        for partition, (written, windows) in states.items():
            store = MemoryStore()
            for record in logs[partition].read(logs[partition].start, ends[partition], committed=True)[0]:
                if record.offset < ends[partition]:
                    store.apply(Changes([record.key], [record.value], deletes=True), record.offset + 1)
            content = WindowContent(store, table.key_codec, table.value_codec, table="windows", spec=table.spec)
            content.load()
            assert (content._written, sorted_open(content)) == (written, windows)


# Live ----------------------------------------------------------------------------------------------------------------


@examples(1.5, few=10)
@given(CASES, STEPS, STEPS)
def test_the_live_app_comes_to_what_the_twin_says_whatever_the_schedule(
    case: Case, steps: list[tuple[str, int]], others: list[tuple[str, int]]
) -> None:
    results = case.results
    rows = {row: values for result in results for row, values in result.rows.items()}
    late = sorted(place for result in results for place in result.late)
    if not case.by_key:
        late = sorted((number, place) for number, result in enumerate(results) for _, place in result.late)
    finals = list[Any]()
    for result in results:
        known = [watermark for watermark in result.watermarks if watermark is not None]
        if known and len(known) == len(result.watermarks):
            finals += [(row, result.rows[row]) for row in closed_by(result, case.kind, min(known))]
    for schedule in (steps, others):
        found_rows, found_finals, found_late = play(case, schedule)
        assert found_late == late
        assert found_rows == rows
        assert (found_finals if case.by_key else sorted(found_finals)) == (finals if case.by_key else sorted(finals))
    counted = sum(n for n, _ in rows.values()) + len(late)
    if case.kind.name in ("tumbling", "sessions"):
        taken = [sale for log in case.logs for sale in log if sale.at is not None and sale.price != "free"]
        assert counted == len(taken)


@examples(400, few=100)
@given(st.lists(st.none() | st.integers(0, 200)), st.none() | st.integers(1, 60))
def test_a_channel_s_stream_time_is_that_of_the_twin(times: list[int | None], max_jump: int | None) -> None:
    channel, seen = Channel(max_jump), list[Any]()
    for at in times:
        seen.append(channel.state[0])
        if at is not None:
            channel.advance(at)
    assert [*seen, channel.state[0]] == stream_times(times, max_jump)


# Bounded -------------------------------------------------------------------------------------------------------------

PROGRAM = """
import anabranch
from anabranch import Count, Cumulating, Hopping, Sessions, Sum, Tumbling
app = anabranch.App("random", topic_partitions={partitions})
sales = app.topic("sales", time="at", grace={grace}, max_jump={max_jump}, partitions={partitions})
keyed = sales.key_by("user") if {by_key} else sales.flow()
table = keyed.window({windows}).aggregate("windows", n=Count(), total=Sum("price"))
table.final().to(app.topic("finals", partitions=1))
"""


def run(
    folder: Path, sales: Sequence[Sale], kind: Kind, grace: int, *, by_key: bool, partitions: int = 3, **options: Any
) -> tuple[dict[Any, Any], list[Any], list[int]]:
    """Return the table, the closed windows and the numbers of the late records of a bounded run."""
    program, file = folder / "program.py", folder / "sales.jsonl"
    windows = f"{type(kind.windows).__name__}({', '.join(str(ms / SECOND) for ms in (kind.size, kind.step) if ms)})"
    program.write_text(
        PROGRAM.format(windows=windows, grace=grace / SECOND, by_key=by_key, partitions=partitions, max_jump=None)
    )
    lines = [json.dumps({**sale._asdict(), "id": number}) for number, sale in enumerate(sales)]
    file.write_text("".join(line + "\n" for line in lines))
    with World(str(program)) as world:
        done = world.run({"sales": file}, key="user", **options)
        late = content_of("late", world.environment.kafka.topics.get("random-run-world1-sales.late"), None)
    rows = {row: (value["n"], value["total"]) for row, value in done.tables["windows"].items()}
    finals = [((v["key"], v["start"], v["end"]), (v["n"], v["total"])) for v in done.topics["finals"].values]
    return rows, finals, sorted(value["id"] for value in late.values)


PLAIN = st.builds(
    Sale, st.integers(0, 90).map(lambda at: START_MS + at * SECOND), st.sampled_from("abc"), st.integers(1, 9)
)


def furthest_behind(sales: Sequence[Sale]) -> int:
    """Return how far a record is behind an earlier one, at most."""
    latest, furthest = 0, 0
    for sale in sales:
        assert sale.at is not None
        latest = max(latest, sale.at)
        furthest = max(furthest, latest - sale.at)
    return furthest


@examples(0.5, few=4)
@given(
    st.lists(PLAIN, min_size=1, max_size=30),
    KINDS,
    st.booleans(),
    st.sampled_from([0, 4 * SECOND, 12 * SECOND, 90 * SECOND]),
    st.randoms(use_true_random=False),
)
def test_without_late_records_neither_order_nor_partitions_nor_form_matter(
    tmp_path_factory: Any, made: list[Sale], kind: Kind, by_key: bool, disorder: int, chance: Any
) -> None:
    sales, shuffled = (sorted(made, key=lambda sale: (sale.at or 0) + chance.randint(0, disorder)) for _ in range(2))
    grace = max(furthest_behind(sales), furthest_behind(shuffled))  # as little as makes no record late
    folder = tmp_path_factory.mktemp("run")
    expected = computed([sales], kind, grace, None)
    windows = sorted((row, expected.rows[row]) for row in closed_by(expected, kind, None))
    for records, options in (
        (sales, {"partitions": 1}),
        (shuffled, {"partitions": 3, "workers": 2}),
        (shuffled, {"partitions": 2, "pack": "lz4"}),
    ):
        rows, finals, late = run(folder, records, kind, grace, by_key=by_key, **options)
        assert (rows, sorted(finals), late) == (expected.rows, windows, [])


@examples(1, few=4)
@given(st.lists(PLAIN, min_size=1, max_size=60), st.booleans(), st.integers(1, 20), st.sampled_from([None, "lz4"]))
def test_windows_are_the_groups_that_polars_makes(
    tmp_path_factory: Any, sales: list[Sale], by_key: bool, size_s: int, pack: str | None
) -> None:
    kind = Kind("tumbling", size_s * SECOND)
    rows, _, late = run(tmp_path_factory.mktemp("run"), sales, kind, 90 * SECOND, by_key=by_key, pack=pack)
    frame = polars.DataFrame([sale._asdict() for sale in sales])
    start = polars.col("at") - polars.col("at") % kind.size
    grouped = frame.group_by("user", start.alias("start")).agg(n=polars.len(), total=polars.col("price").sum())
    assert late == []
    assert rows == {(user, at, at + kind.size): (n, total) for user, at, n, total in grouped.iter_rows()}
