"""Bench of bounded runs: from a file to a result file, exactly once, plain and packed.

    python tests/bench/bounded.py                                           all of it: 20 minutes
    python tests/bench/bounded.py --rows 2000000 --times 3 --only packed    a look

What is measured is `anabranch run` as a user would give it, from the start of the command to its end: replay, agents,
their table's changelog, the result file. Each result is checked, so a wrong sum fails the bench. CSV and Parquet go in,
plain and packed, with one worker and two. Jobs are flows of one line: sums of 20,000,000 keyed amounts
(`amountsum.py`, rows of `amounts.py`), and miles by destination of a year of flights thirty times over
(`flightmiles.py`, 10,103,280 rows of nineteen columns, of `flights.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
from amounts import Amounts
from bounded_jobs import Rows
from flights import Flights
from main import broker, progress
from measure import BenchError, waited
from records import truth_of
from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["RESULT", "check", "command", "environment", "forget"]

RESULT = "result.txt"
_LOOK_S = 0.1
_PATIENCE_S = 1_800
_RATE = 1_500_000
_MEMORY_BYTES = 500_000_000


@dataclass(frozen=True, slots=True)
class Bounded:
    """One run.

    Attributes:
        seconds: from the start of the command to its end; cpu_s: of all its processes.
        replay_peak_bytes: of the process that replays and coordinates; worker_peak_bytes: of each of the workers, the
            largest first.
    """

    rows: int
    seconds: float
    cpu_s: float
    replay_peak_bytes: int
    worker_peak_bytes: list[int]

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


@click.command()
@click.option("--rows", default=20_000_000, show_default=True, help="How many amounts; 0 leaves them out.")
@click.option("--times", default=30, show_default=True, help="How many years of flights; 0 leaves them out.")
@click.option("--repeat", default=1, show_default=True, type=click.IntRange(1), help="Runs of each.")
@click.option("--only", multiple=True, type=click.Choice(["plain", "packed"]), help="Leave the other out.")
@click.option("--format", "formats", multiple=True, type=click.Choice(["csv", "parquet"]), help="Leave the other out.")
@click.option("--processes", multiple=True, type=click.IntRange(1), default=(1, 2), show_default=True)
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), default=Path(".bench"), help="For rows.")
@click.option("--bootstrap-server", help="Use this cluster instead of a broker of our own.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures to FILE.")
def main(
    rows: int,
    times: int,
    repeat: int,
    only: tuple[str, ...],
    formats: tuple[str, ...],
    processes: tuple[int, ...],
    cache: Path,
    bootstrap_server: str | None,
    out: Path | None,
) -> None:
    """Measure bounded runs from file to result file."""
    data = cache.absolute() / "data"
    sources: list[Rows] = [Amounts.written(rows, data)] if rows else []
    sources += [Flights.written(times, data)] if times else []
    runs: dict[str, list[Bounded]] = {}
    asked = [
        (source, way, form, count)
        for source in sources
        for way in only or ("plain", "packed")
        for form in formats or ("csv", "parquet")
        for count in processes
    ]
    try:
        with broker(bootstrap_server) as (cluster, _):
            for number in range(repeat * len(asked)):
                source, way, form, count = asked[number % len(asked)]
                name = f"{source.job.app}, {form}, {way}, {count} process{'es' * (count > 1)}"
                run = _run(source, cluster.bootstrap_servers, form, way == "packed", count)
                runs.setdefault(name, []).append(run)
                where = f"{number + 1}/{repeat * len(asked)} {name}"
                progress.print(f"{where:<48}{run.rate:>12,.0f} rows/s {run.seconds:>8.1f} s")
    except BenchError as exc:
        progress.print(f"failed: {exc}", style="red", markup=False)
        sys.exit(1)
    _show(runs)
    if out is not None:
        out.write_text(json.dumps({name: [asdict(run) for run in found] for name, found in runs.items()}, indent=1))


def command(source: Rows, servers: str, *, form: str, packed: bool, processes: int, run_id: str) -> list[str]:
    """The command line of a run; its result is the file `RESULT` in the folder where it works."""
    job, given = source.job, ["--input", str(source.parquet)]
    if form == "csv":
        given = ["--input", str(source.text), "--format", "csv", "--null", "NA"]
        given += ["--columns", ",".join(job.columns)] if job.columns else []
    asked = [sys.executable, "-m", "anabranch", "run", str(job.path), *given, "--key", job.key, "--output", RESULT]
    asked += ["--processes", str(processes), "--bootstrap-server", servers, "--run-id", run_id]
    return [*asked, "--pack"] if packed else asked


def check(source: Rows, result: Path) -> None:
    """Raises `BenchError` where the sums are wrong."""
    pairs = [line.rpartition(",") for line in result.read_text().splitlines()]
    wrong = source.truth.differs(truth_of({key: int(total) for key, _, total in pairs}, source.rows))
    if wrong:
        raise BenchError(f"the result is wrong: {wrong}")


def forget(source: Rows, run_id: str, servers: str) -> None:
    """Delete the topics and the data of a run."""
    asked = [sys.executable, "-m", "anabranch", "runs", f"{source.job.app}-run-{run_id}", "--forget", "--yes"]
    subprocess.run([*asked, "--bootstrap-server", servers], check=True, capture_output=True)


def _run(source: Rows, servers: str, form: str, packed: bool, processes: int) -> Bounded:
    folder = Path(tempfile.mkdtemp(prefix="anabranch-bench-"))
    run_id = folder.name[-8:]
    asked = command(source, servers, form=form, packed=packed, processes=processes, run_id=run_id)
    try:
        with (folder / "log").open("wb") as log:
            began_s = time.monotonic()
            process = subprocess.Popen(
                asked, cwd=folder, env=environment(source), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        peaks = _Peaks(process.pid)
        try:
            cpu_s = waited(process, _PATIENCE_S)
            seconds = time.monotonic() - began_s
        finally:
            peaks.stop()
        if process.returncode:
            raise BenchError(
                f"ended with {process.returncode}: {(folder / 'log').read_text(errors='replace')[-2_000:]}"
            )
        check(source, folder / RESULT)
        forget(source, run_id, servers)
        workers = sorted(peaks.others_bytes.values(), reverse=True)[:processes]
        return Bounded(source.rows, seconds, cpu_s, peaks.own_bytes, workers)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def environment(source: Rows) -> dict[str, str]:
    """Ours, where Python keeps what it has compiled: as an installed program finds it."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(source.text.parent / "pycache")}


@dataclass
class _Peaks:
    """The most memory that a process has had resident, and each of those it has started, by its id."""

    pid: int
    own_bytes: int = 0
    others_bytes: dict[str, int] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_S):
            for status in Path("/proc").glob("[0-9]*/status"):
                try:
                    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
                except (OSError, ValueError):
                    continue
                peak = int(lines.get("VmHWM", "0 kB").split()[0]) * 1024
                if lines["Pid"].strip() == str(self.pid):
                    self.own_bytes = max(self.own_bytes, peak)
                elif lines["PPid"].strip() == str(self.pid):
                    who = lines["Pid"].strip()
                    self.others_bytes[who] = max(self.others_bytes.get(who, 0), peak)  # who is dead has none


def _show(runs: dict[str, list[Bounded]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, title="from a file to a result file, exactly once")
    for column in ("", "rows/s", "seconds", "CPU s", "replay peak MB", "peak MB of each worker"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, found in runs.items():
        rate, seconds, cpu_s = (
            statistics.median(figures) for figures in zip(*((r.rate, r.seconds, r.cpu_s) for r in found), strict=True)
        )
        replay = max(run.replay_peak_bytes for run in found) / 1e6
        workers = ", ".join(f"{peak / 1e6:,.0f}" for peak in max(run.worker_peak_bytes for run in found))
        table.add_row(name, f"{rate:,.0f}", f"{seconds:.1f}", f"{cpu_s:.1f}", f"{replay:,.0f}", workers)
    Console(width=max(Console().width, 110)).print(table)
    for name, found in runs.items():
        if "packed" in name:
            rate = statistics.median(run.rate for run in found)
            peak = max(max(run.worker_peak_bytes) for run in found)
            # The rate to reach is that of the amounts.
            if name.startswith("amounts"):
                click.echo(f"{'✓' if rate >= _RATE else '✗'} {name}: at least {_RATE:,} rows/s: {rate:,.0f}")
            click.echo(
                f"{'✓' if peak < _MEMORY_BYTES else '✗'} {name}: a worker takes less than 500 MB: {peak / 1e6:,.0f}"
            )


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
