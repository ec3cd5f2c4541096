"""Simulation: an app runs in many worlds with faults, and has to end in each as in a world without.

    simulation = Simulation(shop.app, inputs={"orders": orders}, seeds=200, faults="kill,abort,lost-answer,rebalance")
    simulation.same_as_without_faults()

A seed decides everything about a world: its faults (`faults.py`), when records arrive, in which order workers act, and
all random identifiers. A world with the same seed therefore goes the same way each time. If its outcome differs from
that of the worlds without faults (`audit.py`), the faults are reduced to the fewest that still make it fail
(`shrink.py`), and the error shows them with the line that repeats the world.

Worlds run one after the other, each in one thread, on Kafka in memory and under a virtual clock.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from ...agents.runtime import runtime_of
from ...agents.tables.store_directory import MEMORY
from ...topics import clock
from .app_source import AppSource
from .audit import Expectation, Outcome
from .environment import Environment
from .faults import Fault, Plan, draw, fault_kinds
from .shrink import shrink
from .simulated_world import SimulatedWorld, WorldSettings
from .simulation_arguments import check_names, check_numbers, check_read, input_records, names_of, packed_topics

if TYPE_CHECKING:
    from ...agents.app import App

__all__ = ["Failure", "Simulation", "SimulationReport"]

DEFAULT_SEEDS = 100
_REFERENCES = 3
# Worlds without faults that are run as well where a world with faults differs in details only, and how much later.
_MORE_REFERENCES, _LATER = 6, timedelta(days=1, minutes=1, seconds=1)
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Failure:
    """A world whose outcome differs.

    Attributes:
        plan: its faults.
        shortest: the fewest of them with which the world still fails.
        differences: of the world with these.
        planned: the faults were given, so that the seed alone does not decide them.
    """

    seed: int
    plan: Plan
    shortest: Plan
    differences: tuple[str, ...]
    planned: bool = False

    def __str__(self) -> str:
        return f"seed {self.seed}: the outcome differs from that of a world without faults\n{self.described(repeating)}"

    def described(self, command: Callable[[int, Plan | None], str]) -> str:
        """Return the differences, the fewest faults, and the commands that repeat the world, in lines.

        Args:
            command: returns the command for a seed, with the faults of its world or those that are given.
        """
        lines = [f"  {difference}" for difference in self.differences[:_SHOWN]]
        if len(self.differences) > _SHOWN:
            lines.append(f"  … and {len(self.differences) - _SHOWN} more")
        needed = self.shortest.faults
        lines.append(
            f"faults ({len(needed)} of {len(self.plan.faults)} are enough):" if needed else "without any fault"
        )
        lines += [f"  {fault}" for fault in needed]
        with_faults = command(self.seed, self.shortest)
        lines += ["repeat this world:", f"  {with_faults if self.planned else command(self.seed, None)}"]
        if needed and not self.planned and self.shortest != self.plan:
            lines += ["with these faults only:", f"  {with_faults}"]
        return "\n".join(lines)


@dataclass(slots=True)
class SimulationReport:
    """How the worlds of a simulation went.

    Attributes:
        worlds: number of worlds with faults that were run.
        faults: number of faults that happened in them, by kind.
        failures: the worlds whose outcome differs.
        dead_letters: topic of dead letters -> number of its records in a world without faults.
        seconds: how long all of it took, in real seconds.
    """

    worlds: int = 0
    faults: dict[str, int] = field(default_factory=dict[str, int])
    failures: list[Failure] = field(default_factory=list[Failure])
    dead_letters: dict[str, int] = field(default_factory=dict[str, int])
    seconds: float = 0.0

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        letters = "".join(f"; {count} records in {topic}" for topic, count in sorted(self.dead_letters.items()))
        failed = f"{len(self.failures)} failed; faults: {faults or 'none'}"
        return f"{self.worlds} worlds in {self.seconds:.1f} s, {failed}{letters}"


class Simulation:
    """Runs an app in worlds with faults.

    Args:
        app: `"module:attribute"`, `"path/to/file.py"`, an app of a module, or a function that returns a new app. Each
            start of a worker gets an app of its own; see `AppSource`.
        inputs: topic -> its records in their order: values, or pairs of key and value, or `Input`s.
        seeds: the number of worlds, or their seeds.
        faults: kinds of faults, by the names in `FAULT_KINDS`, with commas between them.
        workers: number of workers.
        partitions: topic -> number of its partitions, of topics that the app does not declare with a number.
        plan: the faults of all worlds, instead of drawn ones.
        ordered: topics in which the records of each key have to be in the same order. It follows from the app where
            all records of a key come from one partition.
        ignore: tables and topics whose content is not compared, because it depends on the order of records of several
            partitions or on the time.
        bounded: the inputs are the history of a bounded run (`anabranch run`): at its end, agents receive the records
            that `take` still holds back.
        packed: the inputs arrive as packed batches, as from a replay with `--pack`; or the names of the topics whose
            inputs do. The outcome has to be that of a world with plain records.
        aligned: of a bounded run, whose inputs are processed in the order of their times (`--time`).

    Raises:
        Usage: an argument is not understood.
    """

    def __init__(
        self,
        app: App | str | Callable[[], App],
        *,
        inputs: Mapping[str, Iterable[object]],
        seeds: int | Iterable[int] = DEFAULT_SEEDS,
        faults: str | Iterable[str] = "all",
        workers: int = 2,
        partitions: Mapping[str, int] | None = None,
        plan: Plan | str | None = None,
        ordered: Iterable[str] = (),
        ignore: Iterable[str] = (),
        bounded: bool = False,
        packed: bool | Iterable[str] = False,
        aligned: bool = False,
    ) -> None:
        self._seeds = range(1, seeds + 1) if isinstance(seeds, int) else list(seeds)
        check_numbers(self._seeds, workers, partitions)
        self._plan = Plan.parse(plan) if isinstance(plan, str) else plan
        records = input_records(inputs)
        self._ordered, self._ignored = names_of("ordered", ordered), names_of("ignore", ignore)
        with Environment().loading():
            source = AppSource(app)
            shown = source.load().app
            self._on_disk = any(table.store_scheme != MEMORY for table in runtime_of(shown).tables)
            self._exactly_once = runtime_of(shown).settings.exactly_once
        self._settings = WorldSettings(
            source,
            shown,
            records,
            workers,
            dict(partitions or {}),
            frozenset(self._ignored),
            bounded,
            packed_topics(packed, records),
            aligned,
        )
        self._kinds = fault_kinds(faults, on_disk=self._on_disk)
        self._expectation: Expectation | None = None
        self._knows_details = False
        self._census: Mapping[tuple[int, str], int] = {}
        self._seconds = 0.0

    def same_as_without_faults(self) -> SimulationReport:
        """Run the worlds until one fails.

        Raises:
            AssertionError: a world's outcome differs from that of a world without faults; or these differ from each
                other.
        """
        report = self.run(most_failures=1)
        if report.failures:
            raise AssertionError(str(report.failures[0]))
        return report

    def run(
        self,
        *,
        most_failures: int = 10,
        shrunk: bool = True,
        watcher: Callable[[SimulationReport], None] | None = None,
    ) -> SimulationReport:
        """Run the worlds.

        Args:
            most_failures: stop after so many worlds that fail.
            shrunk: reduce the faults of worlds that fail.
            watcher: called after each world.
        """
        report, began_s = SimulationReport(), clock.now_s()
        for seed in self._seeds:
            plan = self.plan_of(seed)
            world = self.world(seed, plan)
            differences = self._differences(world)
            report.dead_letters = self.expectation.dead_letters
            report.worlds += 1
            for fault in world.happened:
                report.faults[fault.kind] = report.faults.get(fault.kind, 0) + 1
            if differences:
                report.failures.append(self._failure(seed, plan, differences, shrunk=shrunk))
            report.seconds = clock.now_s() - began_s
            if watcher is not None:
                watcher(report)
            if len(report.failures) >= most_failures:
                break
        return report

    def plan_of(self, seed: int) -> Plan:
        """Return the faults of the world with this seed."""
        if self._plan is not None:
            return self._plan
        _ = self.expectation
        return draw(seed, self._kinds, census=self._census, workers=self._settings.workers, seconds=self._seconds)

    def world(self, seed: int, plan: Plan | None = None) -> SimulatedWorld:
        """Return a world that has not run yet, with the faults of its seed or with these."""
        return SimulatedWorld(self._settings, seed, self.plan_of(seed) if plan is None else plan)

    @property
    def expectation(self) -> Expectation:
        """The outcome of worlds without faults.

        Raises:
            AssertionError: they differ from each other, so that their outcome depends on scheduling; or one with plain
                inputs from those with packed inputs; or they leave nothing to compare.
            Usage: `ignore` or `ordered` names what the app does not have, or it does not read an input.
        """
        if self._expectation is None:
            outcomes: list[Outcome] = []
            names: set[str] = set()
            for seed in range(-_REFERENCES, 0):
                world = SimulatedWorld(self._settings, seed, Plan())
                outcomes.append(world.run())
                check_read(self._settings.app, world.unread)
                names |= world.names
                if outcomes[-1].wrong:
                    break  # an app that does not come to rest takes long to show it
                if len(outcomes) == 1:
                    self._census, self._seconds = world.census, world.seconds
            if not outcomes[-1].wrong:  # it would have all of its topics
                check_names("ignore", self._ignored, names)
                check_names("ordered", self._ordered, names)
            expectation = _expected(outcomes, self._ordered, exactly_once=self._exactly_once)
            if outcomes[0].is_empty and not self._ignored:
                raise AssertionError(
                    "a world without faults leaves nothing to compare: no table was written, no topic has records of "
                    "the app, and there are no dead letters; effects elsewhere, such as files, are not seen"
                )
            if self._settings.packed:
                plain = SimulatedWorld(replace(self._settings, packed=frozenset()), -_REFERENCES, Plan())
                if differences := expectation.differences(plain.run()):
                    listed = "\n  ".join(differences)
                    raise AssertionError(f"plain inputs give another outcome than packed ones:\n  {listed}")
            self._expectation = expectation
        return self._expectation

    def _differences(self, world: SimulatedWorld) -> list[str]:
        """Run a world and return how its outcome differs.

        Headers with the time or the offset of a record, say, may be the same in a few worlds without faults by chance.
        """
        expectation = self.expectation
        outcome = world.run()
        if not self._knows_details and expectation.differs_in_details(outcome):
            self._knows_details = True
            for number in range(1, _MORE_REFERENCES + 1):
                other = SimulatedWorld(self._settings, -_REFERENCES - number, Plan(), later=_LATER * number)
                expectation.learn_details(other.run())
        return expectation.differences(outcome)

    def _failure(self, seed: int, plan: Plan, differences: list[str], *, shrunk: bool) -> Failure:
        found = differences

        def fails(faults: Sequence[Fault]) -> bool:
            nonlocal found
            differences = self._differences(self.world(seed, Plan(tuple(faults))))
            found = differences or found
            return bool(differences)

        shortest = Plan(tuple(shrink(plan.faults, fails))) if shrunk else plan
        return Failure(seed, plan, shortest, tuple(found), planned=self._plan is not None)


def _expected(outcomes: list[Outcome], ordered: Iterable[str], *, exactly_once: bool) -> Expectation:
    wrong = [found for outcome in outcomes for found in outcome.wrong]
    if wrong:
        raise AssertionError("a world without faults does not end well:\n  " + "\n  ".join(dict.fromkeys(wrong)))
    expectation = Expectation(outcomes, exactly_once=exactly_once, ordered=ordered)
    if expectation.unstable:
        raise AssertionError(
            "two worlds without faults end differently, so the outcome depends on the order in which records of "
            "different partitions are processed, on the time, on random numbers, or on state outside of tables "
            "(variables stay with a worker when partitions move):\n  "
            + "\n  ".join(expectation.unstable)
            + "\nif this is meant, name the tables and topics that may differ: ignore=[…]"
        )
    return expectation


def repeating(seed: int, plan: Plan | None = None) -> str:
    """Return the command that repeats a world of the current test."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    faults = "" if plan is None else f" --anabranch-plan={shlex.quote(str(plan))}"
    return f"pytest {shlex.quote(test) if test else '<the test>'} --anabranch-seed={seed}{faults}"
