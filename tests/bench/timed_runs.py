"""Rates of programs that move records, run in turn, each in a process that writes its figures."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from main import progress
from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["Moved", "Runs", "in_process", "in_turn", "median_rate", "show", "write_runs"]

_MIB = 1024 * 1024
_PATIENCE_S = 900.0


@dataclass(frozen=True, slots=True)
class Moved:
    """Figures of one run.

    Attributes:
        seconds: from the start of what is measured, clients open, to its end.
        size_bytes: of what was made of the records, where that is files.
    """

    records: int
    seconds: float
    peak_bytes: int
    size_bytes: int = 0

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds

    def write(self, path: Path) -> None:
        """Leave it to who has started this process."""
        path.write_text(json.dumps(asdict(self)))


Runs = dict[str, list[Moved]]


def in_process(name: str, out: Path, script: str, *arguments: object) -> Moved:
    """Run a script; the figures it has written to `out`."""
    command = [sys.executable, script, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    if ended.returncode:
        raise click.ClickException(f"{name}: {ended.stderr[-2_000:]}")
    return Moved(**json.loads(out.read_text()))


def in_turn(names: Iterable[str], repeat: int, measure: Callable[[str], Moved]) -> Runs:
    """Each of them once, then each once more, so that a machine that gets slower is slower for all."""
    names = list(names)
    runs: Runs = {name: [] for name in names}
    for _turn in range(repeat):
        for name in names:
            run = measure(name)
            runs[name].append(run)
            progress.print(f"{name:<10}{run.rate:>12,.0f} records/s {run.peak_bytes / _MIB:>6,.0f} MiB")
    return runs


def median_rate(found: Iterable[Moved]) -> float:
    """Records a second, in the middle of all runs."""
    return statistics.median(run.rate for run in found)


def show(title: str, base: str, of_base: str, runs: Mapping[str, list[Moved]]) -> None:
    """A table of all measures; `base` is the one that the others are compared with."""
    table = Table(box=box.SIMPLE_HEAD, title=title)
    sizes = any(run.size_bytes for found in runs.values() for run in found)
    for column in ("", "records/s", "min-max", of_base, "peak MiB", *(["bytes a record"] if sizes else [])):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, found in runs.items():
        rates, rate = [run.rate for run in found], median_rate(found)
        row = [name, f"{rate:,.0f}", f"{min(rates):,.0f}-{max(rates):,.0f}", f"{rate / median_rate(runs[base]):.2f}"]
        row.append(f"{max(run.peak_bytes for run in found) / _MIB:,.0f}")
        if sizes:
            row.append(f"{found[0].size_bytes / found[0].records:.1f}" if found[0].size_bytes else "")
        table.add_row(*row)
    Console(width=max(Console().width, 100)).print(table)


def write_runs(runs: Mapping[str, list[Moved]], out: Path | None) -> None:
    """All figures, for a file; nothing where there is none."""
    if out is not None:
        out.write_text(json.dumps({name: [asdict(run) for run in found] for name, found in runs.items()}, indent=1))
