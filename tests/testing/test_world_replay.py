"""Files as input of a world."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
    with pytest.raises(Usage, match=r"no option 'delimitr'\n  hint: do you mean 'delimiter'"):
        world.replay(csv, "orders", delimitr=";")
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
