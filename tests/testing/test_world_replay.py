"""Files as input of a world."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from anabranch import App, Stream, World
from anabranch.topics.errors import Usage


class Order(msgspec.Struct):
    user: str
    amount: int


def shop() -> App:
    app = App("shop")
    orders = app.topic("orders", value_type=Order)
    totals = app.Table("totals", default=int)

    @app.agent(orders)
    async def total(stream: Stream[Order]) -> None:
        async for order in stream:
            totals[order.user] += order.amount

    return app


@pytest.fixture
def world() -> Iterator[World]:
    with World(shop) as made:
        yield made


ROWS = [(f"u{number % 9}", number, f"2026-02-{1 + number % 28:02}T12:00:00Z") for number in range(500)]
TOTALS = {f"u{user}": sum(range(user, 500, 9)) for user in range(9)}


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "orders.csv"
    path.write_text("user,amount,at\n" + "".join(f"{user},{amount},{at}\n" for user, amount, at in ROWS))
    return path


@pytest.mark.parametrize("pack", [None, "lz4"])
def test_a_file_is_replayed_as_by_the_command(world: World, csv: Path, pack: str | None) -> None:
    report = world.replay(csv, "orders", key="user", time="at", pack=pack)  # type: ignore[arg-type]
    assert (report.sent, report.done) == (500, True)
    world.settle()
    assert world.table("totals") == TOTALS
    again = world.replay(csv, "orders", key="user", time="at", pack=pack)  # type: ignore[arg-type]
    assert again.already_done
    world.settle()
    assert world.table("totals") == TOTALS
    if pack is None:
        records = world.topic("orders").records
        assert len(records) == 500
        assert {record.key for record in records} == {f"u{user}".encode() for user in range(9)}
        assert records[0].timestamp.year == 2026
        assert len({record.partition for record in records}) > 1
    else:
        assert 0 < len(world.topic("orders")) < 100


def test_options_of_a_replay(world: World, csv: Path) -> None:
    world.replay(str(csv), "orders", key="user", where="amount < 5", run_id="small")
    world.settle()
    assert world.table("totals") == {f"u{user}": user for user in range(5)}
    with pytest.raises(Usage, match=r"no option 'delimitr'\n  hint: did you mean delimiter"):
        world.replay(csv, "orders", delimitr=";")
    with pytest.raises(Usage, match="pack=True is no compression"):
        world.replay(csv, "orders", key="user", pack=True)
    with pytest.raises(Usage, match="knows no topic 'order'"):
        world.replay(csv, "order")


def test_bad_lines_are_dead_letters(world: World, tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_text('{"user":"ann","amount":1}\nnonsense\n{"user":"ann","amount":2}\n')
    report = world.replay(path, "orders", key="user", on_bad_line="dead-letter")
    assert (report.sent, report.dead_letters) == (2, 1)
    world.settle()
    assert world.table("totals") == {"ann": 3}
    (letter,) = world.dead_letters("orders")
    assert (letter.reason, letter.value) == ("line", "nonsense")
    assert letter.position.endswith("orders.jsonl:2")


def test_a_replay_goes_on_while_workers_are_killed(csv: Path) -> None:
    with World(shop, workers=2) as world:
        world.replay(csv, "orders", key="user")
        world.advance("1ms")
        world.worker(0).kill()
        world.worker(0).start(identity=False)
        world.settle()
        assert world.table("totals") == TOTALS


# Bounded runs ---------------------------------------------------------------------------------------------------------


def test_a_bounded_run_has_topics_and_tables_of_its_own(world: World, csv: Path) -> None:
    world.send("orders", Order("ann", 7), key="ann")
    for workers in (1, 2):
        result = world.run({"orders": csv}, workers=workers, key="user", time="at")
        assert result.tables == {"totals": TOTALS}
        assert result.replays["orders"].sent == 500
        assert len(result.topics["orders"]) == 500
        assert result.dead_letters == {}
    world.settle()
    assert world.table("totals") == {"ann": 7}
    assert len(world.topic("orders")) == 1
    assert "ANABRANCH_RUN" not in os.environ


def test_a_bounded_run_shows_what_failed(world: World, tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_text('{"user":"ann","amount":1}\n{"user":"bob"}\n')
    result = world.run({"orders": path}, key="user")
    assert result.tables == {"totals": {"ann": 1}}
    (letter,) = result.dead_letters["orders"]
    assert (letter.reason, letter.value) == ("decode", {"user": "bob"})
    with pytest.raises(Usage, match="reads no topic 'order'\n  hint: did you mean orders"):
        world.run({"order": path})


def test_takes_end_with_the_history(tmp_path: Path) -> None:
    def program() -> App:
        app = App("takes")
        lines = app.topic("lines", value_type=str)
        sizes = app.topic("sizes")

        @app.agent(lines)
        async def count(stream: Stream[str]) -> None:
            async for some in stream.take(100, within=3600):
                await sizes.send(value=len(some))

        return app

    path = tmp_path / "lines.txt"
    path.write_text("".join(f"line {number}\n" for number in range(250)))
    with World(program, partitions=1) as world:
        result = world.run({"lines": path}, kind="text")
        assert result.topics["sizes"].values == [100, 100, 50]
        assert world.now.minute == 0, "the last ones are not waited for"


def paced() -> App:
    app = App("paced")
    counts = app.topic("counts")
    seen = app.Table("seen", default=int)

    @app.agent(app.topic("orders", key_type=str), name="see")
    async def see(stream: Any) -> None:
        async for key, _ in stream.items():
            seen[key] += 1

    @app.timer(60)
    async def count() -> None:
        await counts.send(value=sum(seen.values()))

    return app


def test_workers_process_records_while_a_replay_keeps_its_pace(tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_text("".join(f'{{"at":"2026-01-01T{n // 60:02}:{n % 60:02}:30Z","k":"k{n % 7}"}}\n' for n in range(180)))
    with World(paced) as world:
        report = world.replay(path, "orders", key="k", time="at", speed="60x")
        assert report.sent == 180
        assert world.now.isoformat().startswith("2026-01-01T00:02:59")
        world.advance("5s")
        assert world.topic("counts").values == [61, 121, 180]
    with World(paced) as world:
        world.replay(path, "orders", key="k", rate="1/s")
        world.settle()
        assert len(world.topic("counts").values) == 2
        assert sum(world.run({"orders": path}, key="k", rate="60/s").tables["seen"].values()) == 180
        with pytest.raises(Usage, match="expected a number"):
            world.replay(path, "orders", speed="fast", run_id="again")
