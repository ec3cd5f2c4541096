"""A world: an app on a Kafka in memory, under a virtual clock."""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from anabranch import App, Count, Mean, Stream, Top, World
from anabranch.agents.runtime import runtime_of
from anabranch.topics import clock, identifiers, threads
from anabranch.topics.errors import Stop, Usage
from anabranch.topics.memory.interceptor import Interceptor

sys.path.insert(0, str(Path(__file__).parent))
import world_shop as shop

Make = Callable[..., World]


def send_orders(world: World) -> None:
    for number in range(40):
        world.send("orders", {"user": f"u{number % 7}", "amount": number}, key=f"u{number % 7}")


TOTALS = {f"u{user}": sum(number for number in range(40) if number % 7 == user) for user in range(7)}


# What the user sees ------------------------------------------------------------------------------------------------


def test_totals(make: Make) -> None:
    world = make()
    world.send("orders", {"user": "ann", "amount": 3}, key="ann", at="2026-01-01T10:00Z")
    world.settle()
    assert world.table("totals") == {"ann": 3}
    assert world.topic("alerts").values == []
    assert world.dead_letters("orders") == []
    world.send("orders", shop.Order("ann", 200), key="ann")
    world.send("orders", b'{"user":"bob","amount":1}', key=b"bob")
    world.settle()
    assert world.table("totals") == {"ann": 203, "bob": 1}
    assert world.topic("alerts").values == [{"amount": 200}]
    assert world.topic("alerts").keys == [b"ann"]


def test_records_of_a_topic(make: Make) -> None:
    world = make()
    world.send("orders", {"user": "ann", "amount": 3}, key="ann", at="2026-01-01T10:00Z", headers={"from": "web"})
    world.send("orders", None, key="ann", partition=1)
    second, first = world.topic("orders")
    assert first.partition == 2
    assert (first.value, first.key, first.offset) == ({"user": "ann", "amount": 3}, b"ann", 0)
    assert first.timestamp.isoformat() == "2026-01-01T10:00:00+00:00"
    assert first.headers == (("from", b"web"),)
    assert first.raw_value == b'{"user":"ann","amount":3}'
    assert (second.value, second.partition) == (None, 1)
    assert second.timestamp == world.now


def test_four_partitions_by_default(make: Make) -> None:
    world = make()
    for number in range(8):
        world.send("orders", {"user": "ann", "amount": number})
    assert [record.partition for record in world.topic("orders")] == [0, 0, 1, 1, 2, 2, 3, 3]
    world = make(partitions=2)
    for number in range(4):
        world.send("orders", {"user": "ann", "amount": number})
    assert [record.partition for record in world.topic("orders")] == [0, 0, 1, 1]
    world = make(partitions={"orders": 3, "extra": 1})
    world.settle()
    world.send("extra", "text", key=7)
    assert world.topic("extra").values == ["text"]


def test_dead_letters(make: Make) -> None:
    world = make()
    world.send("orders", {"user": "ann", "amount": -1}, key="ann", partition=2)
    world.send("orders", "no order", key="ann", partition=2)
    world.settle()
    failed, unreadable = world.dead_letters("orders")
    assert (failed.reason, failed.position, failed.error) == ("agent", "orders[2]@0", "ValueError: amount -1")
    assert failed.value == {"user": "ann", "amount": -1}
    assert failed.agent.endswith("total")
    assert (unreadable.reason, unreadable.position, unreadable.value) == ("decode", "orders[2]@1", "no order")


def test_processing_time_is_the_worlds_and_event_time_the_records(make: Make) -> None:
    world = make()
    assert world.now.isoformat() == "2026-01-01T00:00:00+00:00"
    world.send("orders", {"user": "ann", "amount": 3}, at="2031-01-01")
    world.advance("59m")
    assert len(world.module.ticks) == 5
    world.advance("1m30s")
    assert len(world.module.ticks) == 6
    assert world.table("totals") == {"ann": 3}
    assert 3630 <= world.now.timestamp() - 1767225600 < 3631
    assert shop.ticks == [], "the module of the test is another one"


def test_cron_jobs_run_at_their_times(make: Make) -> None:
    def program() -> App:
        app = App("crons")

        @app.crontab("30 */6 * * *")
        async def report() -> None:
            times.append(world.now.strftime("%d %H:%M"))

        return app

    times: list[str] = []
    world = make(program, start="2026-03-01T05:00Z")
    world.advance_to("2026-03-01T18:29Z")
    assert times == ["01 06:30", "01 12:30"]
    world.advance("10m")
    assert times == ["01 06:30", "01 12:30", "01 18:30"]


def test_settle_lets_time_pass_for_records_that_are_held_back(make: Make) -> None:
    def program() -> App:
        app = App("takes")
        lines = app.topic("lines", value_type=str)
        sizes = app.topic("sizes")

        @app.agent(lines)
        async def count(stream: Stream[str]) -> None:
            async for some in stream.take(10, within=300):
                await sizes.send(value=len(some))

        return app

    world = make(program)
    for line in "abc":
        world.send("lines", line, partition=0)
    world.advance("4m")
    assert world.topic("sizes").values == []
    world.settle()
    assert world.topic("sizes").values == [3]
    assert 300 <= world.now.timestamp() - 1767225600 < 310


def test_repartitioned_streams_settle_too(make: Make) -> None:
    def program() -> App:
        app = App("regroup")
        orders = app.topic("orders", value_type=dict)
        by_item = app.Table("by_item", default=int)

        @app.agent(orders)
        async def count(stream: Stream[Any]) -> None:
            async for order in stream.group_by(lambda order: order["item"], name="item"):
                by_item[order["item"]] += order["amount"]

        return app

    for workers in (1, 3):
        world = make(program, workers=workers)
        for number in range(60):
            world.send("orders", {"item": f"i{number % 5}", "amount": number}, key=f"u{number}")
        world.settle()
        assert world.table("by_item") == {f"i{item}": sum(range(item, 60, 5)) for item in range(5)}


def test_patches_of_the_worlds_module(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make()
    monkeypatch.setattr(world.module, "LIMIT", 2)
    world.send("orders", {"user": "ann", "amount": 3})
    world.settle()
    assert world.topic("alerts").values == [{"amount": 3}]


# Workers -----------------------------------------------------------------------------------------------------------


def test_several_workers_share_the_partitions(make: Make) -> None:
    world = make(workers=3)
    send_orders(world)
    world.settle()
    assert world.table("totals") == TOTALS
    parts = [world.worker(index).table("totals") for index in range(3)]
    assert sum(map(bool, parts)) >= 2
    assert {key: value for part in parts for key, value in part.items()} == TOTALS


@pytest.mark.parametrize("identity", [True, False])
def test_a_killed_worker_is_started_again(make: Make, identity: bool) -> None:
    world = make(workers=2)
    send_orders(world)
    world.settle()
    world.worker(1).kill()
    assert not world.worker(1).running
    send_orders(world)
    world.worker(1).start(identity=identity)
    world.settle()
    assert world.table("totals") == {user: 2 * total for user, total in TOTALS.items()}


def test_the_partitions_of_a_killed_worker_move_after_its_session(make: Make) -> None:
    world = make(workers=2)
    send_orders(world)
    world.settle()
    began = world.now
    world.worker(0).kill()
    send_orders(world)
    world.settle()
    assert world.table("totals") == {user: 2 * total for user, total in TOTALS.items()}
    assert 9 < (world.now - began).total_seconds() < 13
    assert world.worker(1).table("totals") == world.table("totals")


def test_a_worker_that_stops_leaves_at_once(make: Make) -> None:
    world = make(workers=2)
    send_orders(world)
    world.settle()
    began = world.now
    world.worker(0).stop()
    send_orders(world)
    world.settle()
    assert world.table("totals") == {user: 2 * total for user, total in TOTALS.items()}
    assert (world.now - began).total_seconds() < 3


def test_a_killed_worker_has_no_effect_any_more(make: Make) -> None:
    world = make()
    send_orders(world)
    world.advance(0)  # begins
    world.worker().kill()
    before = {name: [log.end for log in topic.logs] for name, topic in world.environment.kafka.topics.items()}
    world.environment.run_until(lambda: False, world.environment.clock.now_s() + 5)
    gc.collect()
    after = {name: [log.end for log in topic.logs] for name, topic in world.environment.kafka.topics.items()}
    assert after == before
    world.worker().start()
    world.settle()
    assert world.table("totals") == TOTALS


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("operation", ["produce", "send_offsets_to_transaction", "commit_transaction"])
def test_a_worker_killed_in_the_middle_of_a_commit(make: Make, operation: str, after: bool) -> None:
    class KillsOnce(Interceptor):
        done = False

        def call(self, client: Any, operation_: str, act: Callable[[], Any]) -> Any:
            hit = not self.done and operation_ == operation and client.owner is victim().owner
            if not hit:
                return act()
            self.done = True
            if after:
                act()
            world.worker(1).kill()
            return None

    def victim() -> Any:
        return world.worker(1).life

    world = make(workers=2)
    world.settle()
    world.environment.interceptor = killer = KillsOnce()
    send_orders(world)
    world.settle()
    assert killer.done
    assert world.worker(0).running
    assert not world.worker(1).running
    assert world.table("totals") == TOTALS
    world.worker(1).start()
    send_orders(world)
    world.settle()
    assert world.table("totals") == {user: 2 * total for user, total in TOTALS.items()}


def test_global_tables(make: Make) -> None:
    def program() -> App:
        app = App("rates")
        prices = app.topic("prices", value_type=int, key_type=str)
        rates = app.GlobalTable("rates", default=int, key_type=str)

        @app.agent(prices)
        async def note(stream: Stream[int]) -> None:
            async for key, value in stream.items():
                rates[str(key)] = value

        return app

    world = make(program, workers=2)
    pairs = {f"k{number}": number for number in range(20)}
    for key, value in pairs.items():
        world.send("prices", value, key=key)
    world.settle()
    assert world.table("rates") == pairs
    assert world.worker(0).table("rates") == world.worker(1).table("rates") == pairs


def test_a_table_of_aggregates_shows_results_without_their_states(make: Make) -> None:
    def program() -> App:
        app = App("sales")
        sales = app.topic("sales")
        sales.aggregate("best", best=Top("amount", 1), mean=Mean("amount"), sales=Count())
        return app

    world = make(program)
    for amount in (3, 5, 4):
        world.send("sales", {"amount": amount}, key="ann")
    world.settle()
    expected = {"ann": {"best": [{"amount": 5}], "mean": 4.0, "sales": 3}}
    assert world.table("best") == expected
    assert world.worker(0).table("best") == expected


def test_the_error_of_a_worker_is_raised(make: Make) -> None:
    def program() -> App:
        app = App("fails")
        lines = app.topic("lines", value_type=int)

        @app.agent(lines, on_failure="fail")
        async def fail(stream: Stream[int]) -> None:
            async for number in stream:
                print(1 // number)

        return app

    world = make(program)
    world.send("lines", 0)
    for _ in range(2):
        with pytest.raises(Stop, match="ZeroDivisionError") as raised:
            world.settle()
        assert raised.value.__notes__ == ["worker 0 has ended with this error"]


# Where apps come from ----------------------------------------------------------------------------------------------


def test_programs_by_name(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make("world_shop:app")
    send_orders(world)
    world.settle()
    assert world.table("totals") == TOTALS
    path = tmp_path / "elsewhere.py"
    path.write_text(Path(shop.__file__).read_text().replace('"shop"', '"elsewhere"'))
    world = make(str(path), workers=2)
    send_orders(world)
    world.settle()
    assert world.table("totals") == TOTALS
    assert world.app.conf.id == "elsewhere"


def test_faust_models_of_a_program(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faustian.py").write_text(
        "import faust\nfrom anabranch import App\n"
        "class Order(faust.Record):\n    user: str\n    amount: int\n"
        "app = App('faustian')\norders = app.topic('orders', value_type=Order)\nmarked = app.topic('marked')\n"
        "out = app.topic('out')\nlast = app.Table('last', value_type=Order)\n"
        "@app.agent(orders)\nasync def first(stream):\n    async for order in stream:\n"
        "        last[order.user] = order\n        await marked.send(value=order)\n"
        "@app.agent(marked)\nasync def second(stream):\n    async for order in stream:\n"
        "        await out.send(value=isinstance(order, Order))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import faustian  # pyright: ignore[reportMissingImports]
    from faust.models.base import registry

    for order in (faustian.Order(user="ann", amount=3), {"user": "ann", "amount": 3}):
        world = make(faustian.app)
        world.send("orders", order)
        world.settle()
        assert world.table("last") == {"ann": {"user": "ann", "amount": 3}}
        assert world.topic("out").values == [True]
        world.close()
    assert registry["faustian.Order"] is faustian.Order


def test_a_program_of_several_modules(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "warehouse"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "core.py").write_text("from anabranch import App\napp = App('warehouse')\nstock = app.topic('stock')\n")
    (package / "tools.py").write_text("FACTOR = 3\n")
    (package / "sinks.py").write_text(
        "from .core import app\nout = app.topic('out')\nasync def emit(value):\n    await out.send(value=value)\n"
    )
    (package / "agents.py").write_text(
        "from . import tools\nfrom .core import app, stock\nfrom .sinks import emit\n"
        "@app.agent(stock, sink=[emit])\nasync def move(stream):\n    async for n in stream:\n"
        "        yield n * tools.FACTOR\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import warehouse.agents  # pyright: ignore[reportMissingImports]
    import warehouse.core  # pyright: ignore[reportMissingImports]
    import warehouse.tools  # pyright: ignore[reportMissingImports]

    modules = {name: module for name, module in sys.modules.items() if name.startswith("warehouse")}
    monkeypatch.setattr(warehouse.tools, "FACTOR", 5)  # no part of the app, so it is shared
    for _ in range(2):
        world = make(warehouse.core.app)
        world.send("stock", 7)
        world.settle()
        assert world.topic("out").values == [35]
    assert {name: module for name, module in sys.modules.items() if name.startswith("warehouse")} == modules
    assert warehouse.core.app is not world.app
    assert warehouse.agents is modules["warehouse.agents"]


def local_app() -> App:
    app = App("local")
    topic = app.topic("numbers", value_type=int)
    sums = app.Table("sums", default=int)

    @app.agent(topic)
    async def add(stream: Stream[int]) -> None:
        async for number in stream:
            sums["all"] += number

    return app


def test_an_app_of_a_function_runs_once(make: Make) -> None:
    app = local_app()
    world = make(app)
    assert world.app is app
    world.send("numbers", 4)
    world.settle()
    assert world.table("sums") == {"all": 4}
    world.worker().kill()
    with pytest.raises(Usage, match="made inside of a function, so it can be started once"):
        world.worker().start()
    with pytest.raises(Usage, match="app local has run already"):
        make(app)
    with pytest.raises(Usage, match="made inside of a function"):
        make(local_app(), workers=2)
    assert make(local_app, workers=2).app.conf.id == "local"


def test_a_module_of_several_apps_lists_their_names(make: Make, tmp_path: Path) -> None:
    (tmp_path / "pair.py").write_text("from anabranch import App\none = App('one')\ntwo = App('two')\n")
    with pytest.raises(Usage, match=r"name one of them: .*pair\.py:one, .*pair\.py:two"):
        make(str(tmp_path / "pair.py"))
    assert make(f"{tmp_path / 'pair.py'}:two").app.conf.id == "two"


# Bad use -----------------------------------------------------------------------------------------------------------


def test_bad_use_is_refused_in_one_sentence(make: Make) -> None:
    world = make()
    cases: list[tuple[str, Callable[[], object]]] = [
        ("knows no topic 'order'\n  hint: did you mean orders", lambda: world.send("order", 1)),
        ("knows no topic 'alrts'\n  hint: did you mean alerts", lambda: world.topic("alrts")),
        ("knows no topic 'nonsense'", lambda: world.dead_letters("nonsense")),
        ("has no table 'total'\n  hint: did you mean totals", lambda: world.table("total")),
        ("table totals: no worker has started\n  hint: call world.settle", lambda: world.table("totals")),
        ("has no agent 'duble'", lambda: world.ask("duble", 1)),
        ("has no partition 4: it has 4", lambda: world.send("orders", 1, partition=4)),
        ("is no name of a topic\n  hint: give its name: 'orders'", lambda: world.send(shop.orders, 1)),  # type: ignore
        ("is no name of a table\n  hint: give its name: 'totals'", lambda: world.table(shop.totals)),  # type: ignore
        ("'yesterday' is no time", lambda: world.send("orders", 1, at="yesterday")),
        ("1767225600000 is no time: it is later than the year 9999", lambda: world.send("orders", 1, at=1767225600000)),
        ("cannot move by -5", lambda: world.advance(-5)),
        ("cannot move by '-1h'", lambda: world.advance("-1h")),
        ("'soon' is no duration", lambda: world.advance("soon")),
        ("time cannot run backwards", lambda: world.advance_to("2025-12-31")),
        ("no worker 1: the world has 1", lambda: world.worker(1)),
        ("worker 0 runs already", lambda: world.worker().start()),
        ("is no app", lambda: make(7)),
        ("a world with 0 workers", lambda: make(workers=0)),
        ("a topic with 0 partitions", lambda: make(partitions=0)),
        ("a topic with -1 partitions", lambda: make(partitions={"orders": -1})),
        ("no module named nowhere", lambda: make("nowhere:app")),
    ]
    for text, call in cases:
        with pytest.raises(Usage) as raised:
            call()
        assert text in str(raised.value), str(raised.value)
    world.worker().kill()
    for call in (world.settle, lambda: world.advance(1)):
        with pytest.raises(Usage, match="no worker runs"):
            call()
    world.close()
    for call in (world.settle, lambda: world.send("orders", 1), lambda: world.topic("orders"), world.worker):
        with pytest.raises(Usage, match="this world has ended"):
            call()


def test_a_record_that_its_topic_refuses_is_not_lost_silently(make: Make) -> None:
    def program() -> App:
        app = App("profiles")
        app.topic("profiles", value_type=str, compacting=True)
        return app

    world = make(program)
    with pytest.raises(Usage, match="topic profiles does not take the record: "):
        world.send("profiles", "without a key")
    world.send("profiles", "ann", key="a")
    assert world.topic("profiles").values == ["ann"]


def test_what_does_not_settle_is_listed(make: Make) -> None:
    def program() -> App:
        app = App("stuck")
        lines = app.topic("lines")

        @app.agent(lines)
        async def wait(stream: Stream[Any]) -> None:
            async for _ in stream:
                await asyncio.Event().wait()

        return app

    world = make(program)
    world.send("lines", 1, partition=3)
    with pytest.raises(
        TimeoutError, match=r"not settled within 5s.*in process: .*wait; lines\[3\] is committed up to 0"
    ):
        world.settle("5s")


def test_an_agent_that_never_waits_is_listed(make: Make) -> None:
    def program() -> App:
        app = App("spinning")
        lines = app.topic("lines")

        @app.agent(lines)
        async def spin(stream: Stream[Any]) -> None:
            async for _ in stream:
                while True:
                    await asyncio.sleep(0)

        return app

    world = make(program)
    world.send("lines", 1)
    with pytest.raises(TimeoutError, match=r"not settled within 10m.*in process: .*spin"):
        world.settle()


# Nothing is left ---------------------------------------------------------------------------------------------------


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(sys.modules), set(threading.enumerate()), clock.current(), threads.idle, identifiers._source
    with World(shop.app, workers=2) as world:
        send_orders(world)
        world.settle()
        assert list(tmp_path.iterdir())
        world.worker(1).kill()
        assert clock.current() is before[2], "between the calls as well"
    assert list(tmp_path.iterdir()) == []
    assert set(sys.modules) - before[0] <= {name for name in sys.modules if not name.startswith("world_shop")}
    assert set(threading.enumerate()) <= before[1]
    assert (clock.current(), threads.idle, identifiers._source) == before[2:]
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert not runtime_of(shop.app).engine_started


def test_the_same_world_twice_is_the_same(make: Make) -> None:
    def run(seed: int) -> tuple[Any, Any, Any]:
        world = make(workers=3, seed=seed)
        send_orders(world)
        world.settle()
        world.advance("15m")
        kafka = world.environment.kafka
        logs = {name: [list(map(repr, log.records)) for log in topic.logs] for name, topic in kafka.topics.items()}
        owned = [sorted(runtime_of(world.worker(index).app).status.owned) for index in range(3)]
        return {name: len(log) for name, log in logs.items()}, owned, world.now

    assert run(1) == run(1)


def test_a_world_inside_of_a_running_loop(make: Make) -> None:
    async def main() -> dict[Any, Any]:
        world = make()
        send_orders(world)
        world.settle()
        await asyncio.sleep(0)
        return world.table("totals")

    assert asyncio.run(main()) == TOTALS


def test_a_kafka_client_that_the_app_makes_itself_is_noticed() -> None:
    clients: list[confluent_kafka.Producer] = []

    def program() -> App:
        app = App("own")

        @app.agent(app.topic("orders"), name="own")
        async def own(stream: Any) -> None:
            async for _ in stream:
                clients.append(confluent_kafka.Producer({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}))

        return app

    with World(program) as world:
        world.settle()
        world.send("orders", 1)
        with pytest.warns(UserWarning, match="a Kafka client of its own: it reaches the network") as noted:
            world.settle()
        assert noted[0].filename == __file__
