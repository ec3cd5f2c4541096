"""Simulated worlds by the thousand, and a test of them: `python tests/faults/worlds.py --seeds 1000`.

First the programs of `tests/testing/world_programs.py` run in worlds with faults, in two processes; each has to end as
without. Then engines that are broken on purpose (`broken_engines.py`) run in such worlds: each has to be found within
200 seeds. `--program bank --seed 17` repeats one world.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "testing")]

from anabranch.replay.testing.simulation import Simulation, SimulationReport
from broken_engines import BROKEN_ENGINES
from world_programs import PROGRAMS  # pyright: ignore[reportMissingImports]

# Of a thousand seeds. Worlds on disk take ten times as long as those in memory.
SHARES = {
    "bank": 220,
    "flows": 60,
    "pages": 220,
    "speeds": 180,
    "ticks": 30,
    "bounded": 30,
    "retries": 100,
    "bank with KIP-848": 80,
    "bank at least once": 60,
    "bank on disk": 20,
}
MOST_SEEDS = 200
PROCESSES = 2
_AT_ONCE = 20


def simulation(program: str, seeds: range, faults: str = "") -> Simulation:
    """A simulation of one of the programs."""
    made = PROGRAMS[program]
    return made.simulation(seeds=seeds, faults=faults or made.faults)


def play(program: str, first: int, count: int) -> tuple[str, SimulationReport]:
    """Run some worlds of a program."""
    return program, simulation(program, range(first, first + count)).run()


def find(name: str) -> tuple[str, int | None, str, float]:
    """Look for a broken engine; returns its name, the seed at which it was found, how it showed, and the seconds."""
    broken, began_s = BROKEN_ENGINES[name], time.perf_counter()
    made = simulation(broken.program, range(1, MOST_SEEDS + 1), broken.faults)
    _ = made.expectation  # of the engine that is not broken
    with broken.broken():
        failures = made.run(most_failures=1, shrunk=False).failures
    seconds = time.perf_counter() - began_s
    if not failures:
        return name, None, "", seconds
    return name, failures[0].seed, failures[0].differences[0], seconds


def main() -> int:
    """Run; the exit code is 1 when a world ended differently, or a broken engine was not found."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seeds", type=int, default=1_000, help="worlds of the engine as it is")
    asked.add_argument("--first", type=int, default=1, help="the first seed")
    asked.add_argument("--program", choices=PROGRAMS)
    asked.add_argument("--seed", type=int, help="one world of --program")
    asked.add_argument("--without-broken", action="store_true", help="no broken engines")
    options = asked.parse_args()
    if options.seed is not None:
        report = simulation(options.program or "bank", range(options.seed, options.seed + 1)).run()
        print(*report.failures, report, sep="\n")
        return 1 if report.failures else 0
    began_s, failed = time.perf_counter(), 0
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        worlds: list[Future[tuple[str, SimulationReport]]] = []
        for program, share in SHARES.items():
            if options.program in (None, program):
                count = options.seeds if options.program else round(options.seeds * share / 1_000)
                last = options.first + count
                for first in range(options.first, last, _AT_ONCE):
                    worlds.append(pool.submit(play, program, first, min(_AT_ONCE, last - first)))
        total = SimulationReport()
        for done in as_completed(worlds):
            program, report = done.result()
            total.worlds += report.worlds
            for kind, number in report.faults.items():
                total.faults[kind] = total.faults.get(kind, 0) + number
            total.failures += report.failures
            for failure in report.failures:
                print(f"{program}: {failure}", flush=True)
        total.seconds = time.perf_counter() - began_s
        print(total, flush=True)
        failed += len(total.failures)
        if not options.without_broken:
            failed += _find_all(pool)
    return 1 if failed else 0


def _find_all(pool: ProcessPoolExecutor) -> int:
    """Look for all broken engines; print where each was found, and return how many were not."""
    missed = 0
    for done in as_completed([pool.submit(find, name) for name in BROKEN_ENGINES]):
        name, seed, how, seconds = done.result()
        missed += seed is None
        where = f"NOT FOUND within {MOST_SEEDS} seeds" if seed is None else f"found at seed {seed}"
        print(f"{name}: {where}, {seconds:.1f} s  {how[:100]}", flush=True)
    print(f"{len(BROKEN_ENGINES)} broken engines, {missed} not found")
    return missed


if __name__ == "__main__":
    sys.exit(main())
