"""Windows in worlds: what they hold, close and refuse is what a plain computation over the logs says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import anabranch
import pytest
from anabranch import Count, Sessions, Sum, Tumbling, World
from anabranch.agents.engine.record_queue import RecordQueue
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.event_time.windows import Windows
from anabranch.agents.flows import window_closer, window_columns
from anabranch.agents.flows.closing_pace import ClosingPace
from anabranch.agents.flows.window_closer import WindowCloser
from anabranch.agents.runtime import runtime_of
from anabranch.agents.tables import open_windows
from anabranch.replay.testing.simulation import Simulation
from anabranch.replay.testing.topic_content import TopicContent
from anabranch.topics import clock
from anabranch.topics.errors import Stop, Usage
from anabranch.topics.private_texts import HIDDEN
from window_programs import KINDS, app_of, expected, inputs, key_of, sales

every_kind = pytest.mark.parametrize("kind", KINDS)
by_key_or_not = pytest.mark.parametrize("by_key", [True, False], ids=["by-key", "in-place"])


def told(finals: TopicContent) -> list[Any]:
    return sorted(((v["key"], v["start"], v["end"]), {k: v[k] for k in ("n", "spent", "most")}) for v in finals.values)


@every_kind
@by_key_or_not
@pytest.mark.parametrize("how", ["one-worker", "four-workers", "one-record-at-a-time"])
def test_a_live_app_tells_what_is_complete_and_keeps_the_rest_open(
    kind: str, by_key: bool, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "one-record-at-a-time":  # otherwise only behind records that fail
        always = property(lambda _: True, lambda _, __: None)
        monkeypatch.setattr(RecordQueue, "isolating", always)
    records = sales()
    rows, late, closed = expected(kind, records, by_key=by_key, end=False)
    with World(lambda: app_of(kind, by_key=by_key), workers=4 if how == "four-workers" else 1) as world:
        for number, sale in enumerate(records):
            world.send("sales", sale, key=key_of(sale, by_key=by_key))
            if number % 50 == 0:
                world.settle()
        world.settle()
        assert world.table("by-user") == rows
        assert sorted(sale["number"] for sale in world.topic("sales.late").values) == late
        if by_key:  # otherwise each partition closes its windows by itself
            assert told(world.topic("finals")) == sorted((row, rows[row]) for row in closed)
        refused = {letter.value["number"] for letter in world.dead_letters("sales")}
    assert late
    assert refused == {s["number"] for s in records if not isinstance(s["at"], int) or isinstance(s["price"], str)}


PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from window_programs import app_of
app = app_of({kind!r}, by_key={by_key})
"""


@every_kind
@by_key_or_not
@pytest.mark.parametrize("pack", [None, "lz4"])
def test_the_end_of_a_bounded_run_s_input_closes_all_windows(
    kind: str, by_key: bool, pack: Any, tmp_path: Path
) -> None:
    records = sales(120)
    rows, late, closed = expected(kind, records, by_key=by_key, end=True)
    assert set(rows) == closed
    program, file = tmp_path / "program.py", tmp_path / "sales.jsonl"
    program.write_text(PROGRAM.format(folder=str(Path(__file__).parent), kind=kind, by_key=by_key))
    file.write_text("".join(json.dumps({**sale, "key": key_of(sale, by_key=by_key)}) + "\n" for sale in records))
    with World(str(program)) as world:
        run = world.run({"sales": file}, key="key", pack=pack, workers=1 if pack else 2)
    assert run.tables["by-user"] == rows
    assert told(run.topics["finals"]) == sorted(rows.items())
    assert len(run.dead_letters["sales"]) == sum(
        not isinstance(sale["at"], int) or isinstance(sale["price"], str) for sale in records
    )
    assert sum(row["n"] for row in rows.values()) + len(late) >= 100 or kind != "tumbling"


def play_with_faults(
    kind: str, records: list[dict[str, Any]], *, by_key: bool, seeds: int, packed: bool = False
) -> None:
    """Play worlds with faults, and fail if one of them comes to another result than a world without."""
    simulation = Simulation(
        lambda: app_of(kind, by_key=by_key),
        inputs=inputs(records, by_key=by_key),
        seeds=seeds,
        faults="kill,abort,lost-answer,rebalance",
        packed=packed,
    )
    assert simulation.same_as_without_faults().worlds == seeds


@pytest.mark.parametrize(
    ("kind", "by_key", "seeds"),
    [
        ("tumbling", True, 10),
        ("tumbling", False, 6),
        ("hopping", True, 4),
        ("cumulating", False, 3),
        ("sessions", True, 8),
        ("sessions", False, 4),
    ],
)
def test_worlds_with_faults_close_the_same_windows(kind: str, by_key: bool, seeds: int) -> None:
    play_with_faults(kind, sales(), by_key=by_key, seeds=seeds)


@pytest.mark.parametrize(("kind", "by_key", "seeds"), [("hopping", True, 4), ("tumbling", False, 3)])
def test_packed_batches_with_faults_close_the_windows_of_plain_records(
    kind: str, by_key: bool, seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_column = 0
    reduce_columns = window_columns.reduce_columns

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal by_column
        result = reduce_columns(*arguments, **options)
        by_column += 1
        return result

    monkeypatch.setattr(window_columns, "reduce_columns", counted)
    records = [sale for sale in sales() if isinstance(sale["at"], int) and isinstance(sale["price"], int)]
    play_with_faults(kind, records, by_key=by_key, seeds=seeds, packed=True)
    assert by_column > 10 * seeds


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Lets windows close in chunks of two; the sizes of the chunks that were closed."""
    chunks: list[int] = []
    close = WindowCloser.close

    async def counted(closer: WindowCloser, batch: Any) -> None:
        await close(closer, batch)
        chunks.append(2 - closer._left)  # pyright: ignore[reportPrivateUsage]

    monkeypatch.setattr(window_closer, "_CHUNK", 2)
    monkeypatch.setattr(window_closer, "_PORTION", 1)
    monkeypatch.setattr(WindowCloser, "close", counted)
    yield chunks
    assert max(chunks) == 2


@pytest.mark.parametrize(
    ("kind", "by_key", "seeds"), [("hopping", True, 5), ("tumbling", False, 5), ("sessions", True, 4)]
)
def test_windows_that_close_in_chunks_with_faults_between_them_close_once(
    kind: str, by_key: bool, seeds: int, small_chunks: list[int]
) -> None:
    play_with_faults(kind, sales(), by_key=by_key, seeds=seeds)
    assert small_chunks.count(2) > 10 * seeds


@pytest.fixture
def slow_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets each portion of three windows, and each step of sorting them, take as long as a chunk may take."""
    monkeypatch.setattr(ClosingPace, "step_s", lambda *_: -1.0)
    monkeypatch.setattr(window_closer, "_PORTION", 3)
    monkeypatch.setattr(open_windows, "_SORTED", 4)


@by_key_or_not
def test_windows_that_take_long_to_close_do_so_in_several_steps(
    by_key: bool, slow_closing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    close, send = WindowCloser.close, WindowCloser._send  # pyright: ignore[reportPrivateUsage]

    async def counted(closer: WindowCloser, batch: Any) -> None:
        steps.append(0)
        await close(closer, batch)

    async def sent(closer: WindowCloser, sends: Any, at: Any, rows: Any, time_ms: int) -> None:
        steps[-1] += len(rows)
        await send(closer, sends, at, rows, time_ms)

    monkeypatch.setattr(WindowCloser, "close", counted)
    monkeypatch.setattr(WindowCloser, "_send", sent)
    with World(lambda: windows_of_sales(Tumbling("10s"), by_key=by_key)) as world:
        users = [f"u{number:02}" for number in range(30)]
        for user in users:
            world.send("sales", {"user": user, "at": 1}, key=user)
        send_sales(world, 12)
        assert [window["key"] for window in world.topic("finals").values] == users
    assert (sum(steps), max(steps)) == (30, 3)


@pytest.mark.parametrize("every", [None, "1s"], ids=["finals", "updates"])
def test_a_function_that_takes_its_time_for_each_window_lets_others_have_their_turn(
    every: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    looks = [0]
    look = WindowCloser._look_at_clock  # pyright: ignore[reportPrivateUsage]

    def slow(window: dict[str, Any]) -> dict[str, Any]:
        clock.sleep(0.02 if len(told) < 60 else 0.0)
        told.append(window["key"])
        return window

    def looked(closer: WindowCloser) -> None:
        looks.append(len(told))
        look(closer)

    monkeypatch.setattr(WindowCloser, "_look_at_clock", looked)

    def app() -> anabranch.App:
        app = anabranch.App("windows", topic_partitions=1)
        topic = app.topic("sales", time="at", time_unit="s", grace="0s", partitions=1)
        made = topic.window(Tumbling("10s")).aggregate("n", n=Count())
        (made.final() if every is None else made.updates(every=every)).map(slow).to("told")
        return app

    with World(app) as world:
        for number in range(400):
            world.send("sales", {"at": 1}, key=f"u{number:03}")
        world.send("sales", {"at": 1 if every else 20}, key="u399")
        world.settle()
        world.advance("5s")
        assert sorted(window["key"] for window in world.topic("told").values) == [f"u{n:03}" for n in range(400)]
    portions = [after - before for before, after in pairwise(looks) if after != before]
    assert portions[:2] == [10, 2], "of 20 ms each, in steps of 50 ms"
    assert max(portions) == 100, "as many as before, where they take no time"


def test_windows_that_reach_one_topic_by_two_ways_come_in_the_order_in_which_they_close() -> None:
    def app() -> anabranch.App:
        app = anabranch.App("windows", topic_partitions=1)
        topic = app.topic("sales", time="at", time_unit="s", grace="0s", max_jump=None, partitions=1)
        made = topic.window(Tumbling("10s")).aggregate("n", n=Count())
        for odd in (1, 0):
            made.final().filter(lambda window, odd=odd: window["n"] % 2 == odd).to("told")
        return app

    with World(app) as world:
        for at in (1, 2, 11, 21, 22):
            world.send("sales", {"at": at}, key="ann")
        for at in (31, 1_000):
            world.send("sales", {"at": at}, key="ann")
        world.settle()
        assert [window["n"] for window in world.topic("told").values] == [2, 1, 2, 1]


@pytest.mark.parametrize(("kind", "by_key", "seeds"), [("hopping", True, 4), ("sessions", False, 3)])
def test_windows_that_take_long_to_close_with_faults_meanwhile_close_once(
    kind: str, by_key: bool, seeds: int, slow_closing: None
) -> None:
    play_with_faults(kind, sales(), by_key=by_key, seeds=seeds)


@by_key_or_not
def test_a_worker_that_dies_between_two_chunks_sends_the_rest_when_it_starts_again(
    by_key: bool, small_chunks: list[int]
) -> None:
    told: list[str] = []

    def fragile(window: dict[str, Any]) -> dict[str, Any]:
        told.append(window["key"])
        if len(told) == 6:
            raise Stop("out of memory")
        return window

    def app() -> anabranch.App:
        app = anabranch.App("windows", topic_partitions=1, settings=EngineSettings(epoch_s=0))
        sales = app.topic("sales", time="at", time_unit="s", grace=0, idle_after=None, partitions=1)
        keyed = sales.key_by("user") if by_key else sales.flow()
        keyed.window(Tumbling("10s")).aggregate("by-user", n=Count()).final().map(fragile).to("finals")
        return app

    keys = [f"u{number}" for number in range(9)]
    with World(app) as world:
        for key in keys:
            world.send("sales", {"user": key, "at": 1}, key=key)
        world.settle()
        with pytest.raises(Stop, match="out of memory"):
            send_sales(world, 10)
            world.advance("10s")
        assert [window["key"] for window in world.topic("finals").values] == keys[:4]
        world.worker().start()
        world.settle()
        world.advance("10s")
        assert [window["key"] for window in world.topic("finals").values] == keys
    assert told == [*keys[:6], *keys[4:]]


@by_key_or_not
def test_windows_that_close_in_many_epochs_are_told_once(by_key: bool) -> None:
    def app() -> anabranch.App:
        app = app_of("tumbling", by_key=by_key)
        runtime_of(app).change_settings(max_outputs=2)
        return app

    # In place, seed 10 restarts a worker in the middle of closing, with no record left that could go on with it.
    Simulation(app, inputs=inputs(sales(), by_key=by_key), seeds=[7, 10]).same_as_without_faults()


def test_keys_between_the_agents_may_be_tuples_within_tuples() -> None:
    def app() -> anabranch.App:
        app = anabranch.App("windows", topic_partitions=1)
        keyed = app.topic("sales", time="at").key_by(lambda sale: ((sale["user"], 1), "x"))
        keyed.window(Tumbling("10s"), grace=0).aggregate("by-user", n=Count())
        return app

    with World(app) as world:
        for at_ms in (1000, 2000):
            world.send("sales", {"user": "ann", "at": at_ms}, key="k")
            world.settle()
        assert world.table("by-user") == {((("ann", 1), "x"), 0, 10_000): {"n": 2}}


def windows_of_sales(
    windows: Windows, *, by_key: bool = True, partitions: int = 1, max_jump: str | None = None, **options: Any
) -> anabranch.App:
    app = anabranch.App("windows", topic_partitions=partitions)
    sales = app.topic(
        "sales", time="at", time_unit="s", grace=0, max_jump=max_jump, idle_after=None, partitions=partitions
    )
    keyed = sales.key_by("user") if by_key else sales.flow()
    keyed.window(windows, **options).aggregate("by-user", n=Count()).final().to("finals")
    return app


def send_sales(world: World, *times: float, user: str = "ann") -> None:
    for at in times:
        world.send("sales", {"user": user, "at": at}, key=user)
        world.settle()


@by_key_or_not
def test_a_session_is_not_forgotten_while_it_is_open_even_if_its_gap_is_longer_than_closed_ones_are_kept(
    by_key: bool,
) -> None:
    with World(lambda: windows_of_sales(Sessions("30s"), by_key=by_key, keep="1s")) as world:
        send_sales(world, 1)
        send_sales(world, *range(2, 20), user="bob")
        world.worker().kill()
        world.worker().start()
        send_sales(world, 20)
        send_sales(world, *range(20, 100, 5), user="bob")
        assert [(window["key"], window["n"]) for window in world.topic("finals").values] == [("ann", 2)]


def test_closed_windows_are_kept_as_long_as_the_program_says() -> None:
    with World(lambda: windows_of_sales(Tumbling("10s"), keep="30s")) as world:
        send_sales(world, 1, 11, 21, 31, 41, 44)
        assert [start for _, start, _ in world.table("by-user")] == [10_000, 20_000, 30_000, 40_000]
        send_sales(world, 50)
        assert [start for _, start, _ in world.table("by-user")] == [20_000, 30_000, 40_000, 50_000]


def test_a_bounded_run_s_result_has_all_windows_although_the_program_keeps_them_for_a_time(tmp_path: Path) -> None:
    program, file = tmp_path / "program.py", tmp_path / "sales.jsonl"
    program.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from anabranch import Tumbling\nfrom test_windows import windows_of_sales\n"
        "app = windows_of_sales(Tumbling('10s'), keep='30s')\n"
    )
    file.write_text("".join(json.dumps({"user": "ann", "at": at}) + "\n" for at in range(1, 100, 10)))
    with World(str(program)) as world:
        run = world.run({"sales": file}, key="user")
    assert [start for _, start, _ in run.tables["by-user"]] == list(range(0, 100_000, 10_000))


def test_windows_of_another_size_under_the_name_of_a_table_are_refused() -> None:
    sizes = ["10s"]
    with World(lambda: windows_of_sales(Tumbling(sizes[-1]))) as world:
        send_sales(world, 1)
        world.worker().stop()
        sizes.append("20s")
        with pytest.raises(Usage, match=r"was made with the windows Tumbling\(10s\), and now has Tumbling\(20s\)"):
            world.worker().start()
            send_sales(world, 2)


@by_key_or_not
def test_a_crash_between_two_jumps_changes_nothing(by_key: bool) -> None:
    log = (0, 10, 5_000, 5_010, 20, 30)
    with World(lambda: windows_of_sales(Tumbling("10s"), by_key=by_key, max_jump="60s")) as world:
        for number, at in enumerate(log):
            send_sales(world, at)
            (world.worker().kill if number % 2 else world.worker().stop)()
            world.worker().start()
        world.settle()
        assert [late["at"] for late in world.topic("sales.late").values] == [20, 30]
        assert [window["start"] for window in world.topic("finals").values] == [0, 10_000, 5_000_000]


@every_kind
@by_key_or_not
def test_where_epochs_are_cut_changes_nothing(kind: str, by_key: bool) -> None:
    records, outcomes = sales(60), list[Any]()
    for every in (1, 7, 60):
        with World(lambda: app_of(kind, by_key=by_key), workers=2) as world:
            for number, sale in enumerate(records, 1):
                world.send("sales", sale, key=key_of(sale, by_key=by_key))
                if number % every == 0:
                    world.settle()
            world.settle()
            late = sorted(sale["number"] for sale in world.topic("sales.late").values)
            outcomes.append((world.table("by-user"), told(world.topic("finals")), late))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    rows, late, _ = expected(kind, records, by_key=by_key, end=False)
    assert (outcomes[0][0], outcomes[0][2]) == (rows, late)


def test_windows_wait_for_the_partition_that_is_furthest_behind() -> None:
    with World(lambda: windows_of_sales(Tumbling("10s"), partitions=2)) as world:

        def send(at: int, partition: int) -> list[tuple[int, int]]:
            world.send("sales", {"user": "ann", "at": at}, key="ann", partition=partition)
            world.settle()
            return [(window["start"] // 1000, window["n"]) for window in world.topic("finals").values]

        assert send(1, 0) == send(100, 0) == send(3, 1) == []
        assert send(10, 1) == [(0, 2)]


def test_empty_partitions_of_a_bounded_run_s_input_end_as_well(tmp_path: Path) -> None:
    program, file = tmp_path / "program.py", tmp_path / "sales.jsonl"
    program.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from anabranch import Tumbling\nfrom test_windows import windows_of_sales\n"
        "app = windows_of_sales(Tumbling('10s'), partitions=4)\n"
    )
    file.write_text("".join(json.dumps({"user": user, "at": at}) + "\n" for at in (1, 12) for user in ("ann", "bob")))
    with World(str(program)) as world:
        run = world.run({"sales": file}, key="user")
    assert sorted((v["key"], v["start"] // 1000, v["n"]) for v in run.topics["finals"].values) == [
        ("ann", 0, 1),
        ("ann", 10, 1),
        ("bob", 0, 1),
        ("bob", 10, 1),
    ]


@by_key_or_not
def test_a_record_that_cannot_be_decoded_moves_no_time_and_one_that_the_flow_refuses_does(by_key: bool) -> None:
    def app() -> anabranch.App:
        app = anabranch.App("windows", topic_partitions=1)
        sales = app.topic("sales", time="at", time_unit="s", grace=0, max_jump=None, idle_after=None, partitions=1)
        keyed = sales.key_by("user") if by_key else sales.flow()
        keyed.window(Tumbling("10s")).aggregate("by-user", spent=Sum("price")).final().to("finals")
        return app

    with World(app) as world:
        for value in (
            {"user": "ann", "at": 1, "price": 2},
            b'{"user": "ann", "at": 50, "price": 2',
            {"user": "ann", "at": 3, "price": 4},
            {"user": "ann", "at": 12, "price": "free"},
            {"user": "ann", "at": 5, "price": 8},
        ):
            world.send("sales", value, key="ann")
        world.settle()
        assert [window["spent"] for window in world.topic("finals").values] == [6]
        assert [late["at"] for late in world.topic("sales.late").values] == [5]
        assert [letter.reason for letter in world.dead_letters("sales")] == ["decode", "agent"]


def test_one_partition_a_day_ahead_of_the_other_makes_no_record_late() -> None:
    with World(lambda: windows_of_sales(Tumbling("1h"), partitions=2), workers=2) as world:
        for partition, days in ((0, 1), (1, 2)):  # partition 0 is at the end of its day before partition 1 begins
            for at in range(0, days * 86_400, 600):
                world.send("sales", {"user": "ann", "at": at}, key="ann", partition=partition)
            world.settle()
            if not partition:
                assert len(world.topic("finals")) == 0
        assert {window["n"] for window in world.topic("finals").values} == {12}
        assert [window["start"] // 3_600_000 for window in world.topic("finals").values] == list(range(23))
        with pytest.raises(Usage):
            world.topic("sales.late")


def test_private_keys_and_fields_of_windows_are_not_shown() -> None:
    app = anabranch.App("windows", topic_partitions=1)
    orders = app.topic("orders", time="at", private=["email"])
    last = orders.key_by("email").window(Tumbling("10s"), grace=0).reduce(max, "last")
    assert last.table.private.key(("ann@example.org", 0, 10_000)) == HIDDEN
    assert last.table.private.value({"email": "ann@example.org", "n": 1}) == {"email": HIDDEN, "n": 1}


def test_a_function_of_the_time_may_stop_the_worker() -> None:
    def when(sale: dict[str, Any]) -> int:
        raise Stop(f"no calendar for {sale['user']}")

    def app() -> anabranch.App:
        app = anabranch.App("windows", topic_partitions=1)
        app.topic("sales", time=when).key_by("user").window(Tumbling("10s"), grace=0).aggregate("by-user", n=Count())
        return app

    with pytest.raises(Stop, match="no calendar for ann"), World(app) as world:
        world.send("sales", {"user": "ann"}, key="k")
        world.settle()
