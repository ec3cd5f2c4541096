"""The bench of bounded runs: from a file to a result file, exactly once, plain and packed.

    python tests/bench/bounded.py                                 20,000,000 rows, CSV and Parquet, 1 and 2 processes
    python tests/bench/bounded.py --rows 2000000 --only packed    a look

What is measured is `anabranch run` as a user would give it, from the start of the command to its end: replay, agents,
their table's changelog, the result file. Each result is checked, so a wrong sum fails the bench. The job is a flow of
one line (`amountsum.py`); rows are those of `amounts.py`.
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
from main import broker, progress
from measure import BenchError
from records import truth_of
from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["RESULT", "check", "command", "environment", "forget"]

_JOB = Path(__file__).with_name("amountsum.py")
RESULT = "result.txt"
_LOOK_S = 0.1
_PATIENCE_S = 1_800
_RATE = 1_500_000
_MEMORY_BYTES = 500_000_000


@dataclass(frozen=True, slots=True)
class Bounded:
    """One run.

    Attributes:
        seconds: from the start of the command to its end; `replay_peak_bytes` of that process, which replays and
            coordinates, `worker_peak_bytes` of the largest of the others.
    """

    rows: int
    seconds: float
    replay_peak_bytes: int
    worker_peak_bytes: int

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


@click.command()
@click.option("--rows", default=20_000_000, show_default=True, help="How many rows.")
@click.option("--repeat", default=1, show_default=True, type=click.IntRange(1), help="Runs of each.")
@click.option("--only", multiple=True, type=click.Choice(["plain", "packed"]), help="Leave the other out.")
@click.option("--format", "formats", multiple=True, type=click.Choice(["csv", "parquet"]), help="Leave the other out.")
@click.option("--processes", multiple=True, type=click.IntRange(1), default=(1, 2), show_default=True)
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), default=Path(".bench"), help="For rows.")
@click.option("--bootstrap-server", help="Use this cluster instead of a broker of our own.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures to FILE.")
def main(
    rows: int,
    repeat: int,
    only: tuple[str, ...],
    formats: tuple[str, ...],
    processes: tuple[int, ...],
    cache: Path,
    bootstrap_server: str | None,
    out: Path | None,
) -> None:
    """Measure bounded runs from file to result file."""
    amounts = Amounts.written(rows, cache.absolute() / "data")
    runs: dict[str, list[Bounded]] = {}
    try:
        with broker(bootstrap_server) as (cluster, _):
            for _turn in range(repeat):
                for way in only or ("plain", "packed"):
                    for form in formats or ("csv", "parquet"):
                        for count in processes:
                            name = f"{form}, {way}, {count} process{'es' * (count > 1)}"
                            run = _run(amounts, cluster.bootstrap_servers, form, way == "packed", count)
                            runs.setdefault(name, []).append(run)
                            progress.print(f"{name:<30}{run.rate:>12,.0f} rows/s {run.seconds:>8.1f} s")
    except BenchError as exc:
        progress.print(f"failed: {exc}", style="red", markup=False)
        sys.exit(1)
    _show(runs)
    if out is not None:
        out.write_text(json.dumps({name: [asdict(run) for run in found] for name, found in runs.items()}, indent=1))


def command(amounts: Amounts, servers: str, *, form: str, packed: bool, processes: int, run_id: str) -> list[str]:
    """The command line of a run; its result is the file `RESULT` in the folder where it works."""
    source = ["--input", str(amounts.parquet)]
    if form == "csv":
        source = ["--input", str(amounts.text), "--format", "csv", "--columns", "key,amount"]
    asked = [sys.executable, "-m", "anabranch", "run", str(_JOB), *source, "--key", "key", "--output", RESULT]
    asked += ["--processes", str(processes), "--bootstrap-server", servers, "--run-id", run_id]
    return [*asked, "--pack"] if packed else asked


def check(amounts: Amounts, result: Path) -> None:
    """Raises `BenchError` where the sums are wrong."""
    pairs = [line.rpartition(",") for line in result.read_text().splitlines()]
    wrong = amounts.truth.differs(truth_of({key: int(total) for key, _, total in pairs}, amounts.rows))
    if wrong:
        raise BenchError(f"the result is wrong: {wrong}")


def forget(run_id: str, servers: str) -> None:
    """Delete the topics and the data of a run."""
    asked = [sys.executable, "-m", "anabranch", "runs", f"amounts-run-{run_id}", "--forget", "--yes"]
    subprocess.run([*asked, "--bootstrap-server", servers], check=True, capture_output=True)


def _run(amounts: Amounts, servers: str, form: str, packed: bool, processes: int) -> Bounded:
    folder = Path(tempfile.mkdtemp(prefix="anabranch-bench-"))
    asked = command(amounts, servers, form=form, packed=packed, processes=processes, run_id=folder.name[-8:])
    try:
        with (folder / "log").open("wb") as log:
            began_s = time.monotonic()
            process = subprocess.Popen(
                asked, cwd=folder, env=environment(amounts), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        peaks = _Peaks(process.pid)
        try:
            status = process.wait(_PATIENCE_S)
            seconds = time.monotonic() - began_s
        finally:
            process.kill()
            peaks.stop()
        if status:
            raise BenchError(f"ended with {status}: {(folder / 'log').read_text(errors='replace')[-2_000:]}")
        check(amounts, folder / RESULT)
        forget(folder.name[-8:], servers)
        return Bounded(amounts.rows, seconds, peaks.own_bytes, peaks.others_bytes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def environment(amounts: Amounts) -> dict[str, str]:
    """Ours, where Python keeps what it has compiled: as an installed program finds it."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(amounts.text.parent / "pycache")}


@dataclass
class _Peaks:
    """The most memory that a process has had resident, and the largest of those it has started."""

    pid: int
    own_bytes: int = 0
    others_bytes: int = 0
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
                    self.others_bytes = max(self.others_bytes, peak)


def _show(runs: dict[str, list[Bounded]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, title="from a file to a result file, exactly once")
    for column in ("", "rows/s", "seconds", "replay peak MB", "worker peak MB"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, found in runs.items():
        rate, seconds = (
            statistics.median(figures) for figures in zip(*((r.rate, r.seconds) for r in found), strict=True)
        )
        replay, worker = max(r.replay_peak_bytes for r in found) / 1e6, max(r.worker_peak_bytes for r in found) / 1e6
        table.add_row(name, f"{rate:,.0f}", f"{seconds:.1f}", f"{replay:,.0f}", f"{worker:,.0f}")
    Console(width=max(Console().width, 100)).print(table)
    for name, found in runs.items():
        if "packed" in name:
            rate = statistics.median(run.rate for run in found)
            peak = max(run.worker_peak_bytes for run in found)
            click.echo(f"{'✓' if rate >= _RATE else '✗'} {name}: at least {_RATE:,} rows/s: {rate:,.0f}")
            click.echo(
                f"{'✓' if peak < _MEMORY_BYTES else '✗'} {name}: a worker takes less than 500 MB: {peak / 1e6:,.0f}"
            )


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
