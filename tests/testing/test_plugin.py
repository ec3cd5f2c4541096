"""The pytest plugin, as a user's project uses it: pytest runs in a folder of its own, in another process."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

PLUGIN = "anabranch.replay.testing.plugin"
HEAVY = {"faust", "aiohttp", "confluent_kafka", "polars", "pyarrow", "numpy", "msgspec", "rich", "click"}

SHOP = """
import msgspec
from anabranch import App, Stream

class Order(msgspec.Struct):
    user: str
    amount: int

app = App("shop")
orders = app.topic("orders", value_type=Order, partitions=4)
totals = app.Table("totals", default=int)

@app.agent(orders)
async def total(stream: Stream[Order]) -> None:
    async for order in stream:
        totals[order.user] += order.amount
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with an app."""
    for variable in ("CI", "BUILD_NUMBER"):  # with one of these, pytest's summary repeats each error in full
        monkeypatch.delenv(variable, raising=False)
    pytester.makepyfile(shop=SHOP)
    pytester.makeini("[pytest]\naddopts = --strict-markers --import-mode=importlib\npythonpath = .\n")
    return pytester


def run(project: pytest.Pytester, *arguments: str, plugins: int = 1) -> pytest.RunResult:
    loaded = ["-p", PLUGIN] * plugins
    return project.runpytest_subprocess(*loaded, "-q", "-p", "no:cacheprovider", *arguments)


def test_the_plugin_imports_nothing_that_takes_time() -> None:
    code = f"import sys, pytest; before = set(sys.modules); import {PLUGIN}; print(*(set(sys.modules) - before))"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert PLUGIN in printed
    assert not HEAVY & {name.partition(".")[0] for name in printed}
    others = {name for name in printed if not name.startswith("anabranch")}
    assert len(others) < 10, others


def test_tests_that_use_no_fixture_import_nothing_of_it(project: pytest.Pytester) -> None:
    project.makepyfile(f"def test_it():\n    import sys\n    assert not {HEAVY!r} & set(sys.modules)")
    run(project).assert_outcomes(passed=1)


def test_a_plugin_that_is_loaded_twice_is_one(
    project: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As installed: with an entry point, beside `-p` and PYTEST_PLUGINS.
    installed = tmp_path / "site" / "anabranch_installed-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: anabranch-installed\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[pytest11]\n{PLUGIN} = {PLUGIN}\n")
    monkeypatch.setenv("PYTHONPATH", str(installed.parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTEST_PLUGINS", PLUGIN)
    project.makepyfile("def test_it(pytestconfig): assert pytestconfig.getoption('--anabranch-seed') is None")
    for times in (0, 1, 2):
        run(project, plugins=times).assert_outcomes(passed=1)


def test_the_entry_point_has_the_name_of_the_module() -> None:
    # So pytest does not load it again for `-p`: plugins are known by name.
    import tomllib

    import anabranch

    project = tomllib.loads((Path(anabranch.__file__).parent / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {PLUGIN: PLUGIN}


def test_the_options_and_the_marker_are_documented_by_pytest(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(): pass")
    run(project, "--help").stdout.fnmatch_lines(["*--anabranch-seed=SEED*"])
    run(project, "--markers").stdout.fnmatch_lines(["@pytest.mark.anabranch(seeds=100, faults='all', …)*"])
    run(project, "--fixtures").stdout.fnmatch_lines(["anabranch_world*", "anabranch_sim*", "anabranch_kafka*"])
    wrong = run(project, "--anabranch-seed=x")
    assert wrong.ret != 0
    wrong.stderr.fnmatch_lines(["*--anabranch-seed: invalid int value: 'x'*"])


def test_the_kafka_of_a_session_is_one_with_fresh_names(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANABRANCH_TEST_BROKER", "memory")
    project.makepyfile(
        """
        kafkas = []

        def test_first(anabranch_kafka):
            kafkas.append(anabranch_kafka)
            assert anabranch_kafka.fresh("orders") != anabranch_kafka.fresh("orders")
            assert anabranch_kafka.bootstrap_servers == anabranch_kafka.cluster.bootstrap_servers

        def test_second(anabranch_kafka):
            assert kafkas == [anabranch_kafka]
            assert anabranch_kafka.cluster.admin().list_topics(timeout=60).topics == {}
        """
    )
    run(project).assert_outcomes(passed=2)


def test_a_broker_that_does_not_exist_is_named(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_TEST_BROKER", "rabbit")
    project.makepyfile("def test_it(anabranch_kafka): pass")
    result = run(project)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ANABRANCH_TEST_BROKER=rabbit is no Kafka*", "*embedded, container, memory or*"])


def test_worlds_end_with_their_test_and_have_plain_values(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import gc, pytest, threading, shop
        from anabranch.topics.errors import Usage

        worlds = []

        def test_totals(anabranch_world):
            world = anabranch_world(shop.app, workers=2)
            worlds.append(world)
            world.send("orders", {"user": "ann", "amount": 3}, key="ann", at="2026-01-01T10:00Z")
            world.send("orders", "no order", key="ann")
            world.settle()
            totals, records = world.table("totals"), world.topic("orders").values
            assert (totals, records) == ({"ann": 3}, [{"user": "ann", "amount": 3}, "no order"])
            # What snapshot plugins store: builtin types alone.
            assert [type(value) for value in (totals, *totals, *totals.values(), records, records[0])] == [
                dict, str, int, list, dict
            ]
            letter, = world.dead_letters("orders")
            assert type(letter.value) is type(letter.error) is str

        def test_several(anabranch_world):
            one, two = anabranch_world(shop.app), anabranch_world("shop:app", partitions={"orders": 2})
            one.send("orders", {"user": "ann", "amount": 3}, key="ann")
            one.settle()
            two.settle()
            assert (one.table("totals"), two.table("totals")) == ({"ann": 3}, {})
            worlds.append(two)

        def test_they_have_ended():
            assert threading.active_count() == 1
            for world in worlds:
                with pytest.raises(Usage, match="this world has ended"):
                    world.settle()
        """
    )
    run(project).assert_outcomes(passed=3)


def test_one_test_runs_in_memory_and_on_kafka(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_TEST_BROKER", "memory")
    project.makepyfile(
        """
        import pytest, shop

        @pytest.mark.parametrize("place", ["anabranch_world", "anabranch_kafka"])
        def test_totals(request, place):
            with request.getfixturevalue(place)(shop.app) as world:
                world.send("orders", {"user": "ann", "amount": 3}, key="ann")
                world.settle()
                assert world.table("totals") == {"ann": 3}
        """
    )
    run(project).assert_outcomes(passed=2)


SIMULATION = """
import pytest, shop
from anabranch import Simulation

ORDERS = [(f"u{i % 5}", {"user": f"u{i % 5}", "amount": i}) for i in range(60)]

@pytest.mark.anabranch(seeds=3, faults="kill,rebalance")
def test_exact(anabranch_sim):
    report = anabranch_sim(shop.app, inputs={"orders": ORDERS}).same_as_without_faults()
    assert isinstance(anabranch_sim(shop.app, inputs={"orders": ORDERS}), Simulation)
    print(report)
"""


def test_a_simulation_runs_as_the_marker_says_and_a_seed_and_faults_are_repeated(project: pytest.Pytester) -> None:
    project.makepyfile(SIMULATION)
    result = run(project, "-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*3 worlds in * s, 0 failed; faults: *"])
    result = run(project, "-s", "--anabranch-seed=7", "--anabranch-plan", "kill:restart w0 after commit_transaction 1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*1 worlds in * s, 0 failed; faults: 1 kill*"])


UNIQUE = """
from anabranch import App

app = App("unique")
orders = app.topic("orders")
totals = app.Table("totals", default=int)
seen = set()

@app.agent(orders)
async def total(stream):
    async for order in stream:
        if order["id"] not in seen:
            seen.add(order["id"])
            totals[order["user"]] += 1
"""


def test_a_failing_seed_is_repeated_by_the_printed_line(project: pytest.Pytester) -> None:
    project.makepyfile(
        unique=UNIQUE,
        test_unique="""
        import pytest, unique

        ORDERS = [(f"u{n % 5}", {"id": n, "user": f"u{n % 5}"}) for n in range(60)]

        @pytest.mark.anabranch(seeds=50, faults="abort,lost-answer,kill")
        def test_exactly_once(anabranch_sim):
            anabranch_sim(unique.app, inputs={"orders": ORDERS}).same_as_without_faults()
        """,
    )
    result = run(project)
    result.assert_outcomes(failed=1)
    lines = [line.removeprefix("E").strip() for line in result.outlines]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("pytest test_unique.py::test_exactly_once")]
    difference = next(line for line in lines if line.startswith("table totals: "))
    assert commands
    for command in commands:
        again = run(project, *command)
        again.assert_outcomes(failed=1)
        again.stdout.fnmatch_lines([f"*{difference.partition(':')[0]}:*"])


def test_options_in_the_wrong_place_are_named(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest, shop

        @pytest.mark.anabranch(200)
        def test_it(anabranch_sim): pass

        @pytest.mark.anabranch(seed=200)
        def test_misspelled(anabranch_sim): pass

        def test_without_inputs(anabranch_sim):
            anabranch_sim(shop.app, inputs={})
        """
    )
    result = run(project)
    result.assert_outcomes(errors=2, failed=1)
    result.stdout.fnmatch_lines(["*pytest.mark.anabranch(200)*", "*name the options: seeds=200, faults='kill'*"])
    result.stdout.fnmatch_lines(["*pytest.mark.anabranch(seed=…): no such option*", "*did you mean seeds?*"])
    result.stdout.fnmatch_lines(["*a simulation without inputs*"])


def test_an_error_of_set_up_is_short_and_is_shown_in_full_once(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makepyfile(broken="import anabranch\napp = anabranch.App('broken')\nlimit = 1 / 0\n")
    project.makepyfile(
        """
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_world(anabranch_world, number):
    anabranch_world("broken:app")

def test_simulation(anabranch_sim):
    anabranch_sim("broken:app", inputs={"orders": [1]})

def test_kafka(anabranch_kafka):
    pass
"""
    )
    monkeypatch.setenv("ANABRANCH_TEST_BROKER", "nowhere")
    done = run(project)
    done.assert_outcomes(failed=3, errors=1)
    said = done.stdout.str()
    assert said.count("> limit = 1 / 0") + said.count(">   limit = 1 / 0") == 1
    assert said.count("(as in test_an_error_of_set_up_is_short_and_is_shown_in_full_once.py::test_world[1])") == 2
    assert "Usage: ANABRANCH_TEST_BROKER=nowhere is no Kafka" in said
    assert "app_source.py" not in said
    assert "kafka_fixture.py" not in said
