"""The pytest plugin: fixtures for worlds, simulations and a real Kafka.

pytest loads it in every project that has anabranch installed (`pytest11` in `pyproject.toml`), so it imports nothing
until a fixture is used.

| fixture | |
| --- | --- |
| `anabranch_world` | makes worlds, and closes them at the end of the test: `world = anabranch_world(shop.app)` |
| `anabranch_sim` | makes simulations, as the marker `anabranch` says: see `simulation.py` |
| `anabranch_kafka` | a real Kafka for the whole session; see `kafka_fixture.py` |
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .kafka_fixture import KafkaFixture
    from .simulation import Simulation
    from .world import World

__all__ = ["anabranch_kafka", "anabranch_sim", "anabranch_world"]

_ROOT = Path(__file__).parents[2]
_HIDDEN = (
    *(str(_ROOT / room) for room in ("agents", "replay", "topics")),
    *(str(Path(importlib.__file__).parent), contextlib.__file__, "<frozen importlib"),
)
_SET_UP = "_anabranch_set_up"
_FIRST = pytest.StashKey[dict[str, str]]()  # text of an error -> the first test that had it


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that repeat a world of a simulation; the error of a failing one shows them."""
    group = parser.getgroup("anabranch")
    group.addoption(
        "--anabranch-seed",
        type=int,
        action="append",
        metavar="SEED",
        help="run simulations in the world with this seed only; can be given several times",
    )
    group.addoption(
        "--anabranch-plan", metavar="FAULTS", help="let these faults happen in simulations, instead of drawn ones"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", "anabranch(seeds=100, faults='all', …): arguments of the simulations that anabranch_sim makes"
    )


@contextlib.contextmanager
def _setting_up() -> Generator[None]:
    """Mark the exceptions of what makes a world, a simulation or a broker; see `pytest_runtest_makereport`."""
    try:
        yield
    except Exception as exc:
        exc.__dict__[_SET_UP] = True
        raise


def _without_our_frames(traceback: TracebackType | None) -> TracebackType | None:
    kept: list[TracebackType] = []
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_filename.startswith(_HIDDEN):
            kept.append(traceback)
        traceback = traceback.tb_next
    made: TracebackType | None = None
    for one in reversed(kept):
        made = TracebackType(made, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show errors of set-up without our own frames, and in full only for the first test that has them."""
    error = None if call.excinfo is None else call.excinfo.value
    if call.excinfo is None or error is None or _SET_UP not in getattr(error, "__dict__", ()):
        return (yield)
    is_ours = _without_our_frames(error.__traceback__) is None
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__ = _without_our_frames(cause.__traceback__) or cause.__traceback__
        cause = cause.__cause__
    call.excinfo = pytest.ExceptionInfo.from_exception(error)
    report = yield
    text = f"{type(error).__name__}: {error}"
    first = item.config.stash.setdefault(_FIRST, {}).setdefault(text, item.nodeid)
    if first != item.nodeid:
        report.longrepr = f"{text}\n(as in {first})"
    elif is_ours:
        report.longrepr = text
    return report


@pytest.fixture
def anabranch_world() -> Iterator[Callable[..., World]]:
    """Make worlds, with the arguments of `World`; they are closed at the end of the test."""
    from .world import World

    worlds: list[World] = []

    def make(program: Any, **options: Any) -> World:
        with _setting_up():
            worlds.append(World(program, **options))
        return worlds[-1]

    yield make
    for world in reversed(worlds):
        world.close()


@pytest.fixture
def anabranch_sim(request: pytest.FixtureRequest) -> Callable[..., Simulation]:
    """Make simulations, with the arguments of `Simulation`.

    Those of the marker `anabranch` count where the call gives none, and `--anabranch-seed` and `--anabranch-plan` count
    more than both.
    """
    from inspect import signature

    from ...topics.errors import Usage
    from ...topics.spelling import did_you_mean
    from .simulation import Simulation

    marker = request.node.get_closest_marker("anabranch")
    if marker is not None and marker.args:
        raise Usage(f"pytest.mark.anabranch({marker.args[0]!r})", hint="name the options: seeds=200, faults='kill'")
    for name in marker.kwargs if marker is not None else ():
        known = [option for option in signature(Simulation).parameters if option not in ("app", "inputs")]
        if name not in known:
            raise Usage(f"pytest.mark.anabranch({name}=…): no such option", hint=did_you_mean(name, known))
    asked: dict[str, Any] = {
        "seeds": request.config.getoption("--anabranch-seed"),
        "plan": request.config.getoption("--anabranch-plan"),
    }

    def make(app: Any, **options: Any) -> Simulation:
        given = {name: value for name, value in asked.items() if value is not None}
        with _setting_up():
            return Simulation(app, **{**(marker.kwargs if marker else {}), **options, **given})

    return make


@pytest.fixture(scope="session")
def anabranch_kafka() -> Iterator[KafkaFixture]:
    """A real Kafka that the tests of a session share: embedded, or as `ANABRANCH_TEST_BROKER` says."""
    from .kafka_fixture import provide_kafka

    with contextlib.ExitStack() as stack:
        with _setting_up():
            kafka = stack.enter_context(provide_kafka())
        yield kafka
