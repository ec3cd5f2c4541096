"""Worker processes under a supervisor: a process that ends is restarted, and the reason is noted."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from scenario import Trap

__all__ = ["Worker", "WorkerExit"]

BANK = Path(__file__).parent / "bank.py"
RESTART_DELAY_S = 0.5
SHOW_S = 2.0
END_S = 60.0  # longer than a worker takes to end (`agents/worker.py`)


@dataclass(frozen=True)
class WorkerExit:
    """A process that ended without being killed, with the last lines of its log."""

    worker: int
    code: int
    last_lines: str

    def __str__(self) -> str:
        return f"worker {self.worker} ended with {self.code}: {self.last_lines}"


@dataclass
class Worker:
    """One worker and its data folder, over all its processes.

    Attributes:
        bank: environment of the processes.
        traps: for the next starts, one for each.
        wanted: False after it was asked to leave.
        ends: the ends that the supervisor did not cause.
        wrong: violations, such as an end with a traceback.
    """

    worker: int
    bank: dict[str, str]
    folder: Path
    traps: list[Trap] = field(default_factory=list)
    wanted: bool = True
    ends: list[WorkerExit] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _trap: Trap | None = None
    _start_at_s: float = 0.0
    _continue_at_s: float = 0.0
    _kill_restart_after_s: float | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"worker-{self.worker}.log"

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def ready(self) -> bool:
        """Whether it was ever ready, by its log."""
        return self.log.exists() and "ready on" in self.log.read_text(errors="replace")

    @property
    def settled(self) -> bool:
        """Whether it runs and is not frozen."""
        return self.runs and not self._frozen

    @property
    def _frozen(self) -> bool:
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except (FileNotFoundError, AttributeError):
            return False
        return stat.rpartition(")")[2].split()[0] == "T"

    def command(self) -> list[str]:
        """Arguments of the `anabranch` command."""
        data = ["--datadir", str(self.folder / f"data-{self.worker}"), "--end-with-stdin"]
        return ["-A", str(BANK), "worker", "--without-web", "-l", "info", *data]

    def supervise(self) -> None:
        """Restart the process or let it continue, if it is time."""
        now = time.monotonic()
        if self._process is None:
            if self.wanted and now >= self._start_at_s:
                self._start()
            return
        code = self._process.poll()
        if code is not None:
            self._ended(code)
        elif self._frozen:
            if not self._continue_at_s:
                self._continue_at_s = now + (self._trap.restart_after_s if self._trap is not None else 1.0)
            if now >= self._continue_at_s:
                self._continue_at_s = 0.0
                self._process.send_signal(signal.SIGCONT)

    def kill(self, restart_after_s: float) -> None:
        if self.runs:
            self._kill_restart_after_s = restart_after_s
            self._process.kill()

    def damage(self, kind: str, seed: int) -> None:
        """Kill the worker and damage its stores before it is restarted."""
        self.kill(0.0)
        if self._process is not None:
            self._process.wait()
            damage_stores(self.folder / f"data-{self.worker}", kind, random.Random(seed))

    def freeze(self, for_s: float) -> None:
        if self.wanted and self.runs:
            self._continue_at_s = time.monotonic() + for_s
            self._process.send_signal(signal.SIGSTOP)

    def show(self) -> None:
        """Write the stacks of its threads and tasks into its log."""
        if self.runs:
            size, deadline_s = self.log.stat().st_size, time.monotonic() + SHOW_S
            self._process.send_signal(signal.SIGUSR2)
            while self.log.stat().st_size == size and time.monotonic() < deadline_s:
                time.sleep(0.05)

    def leave(self) -> None:
        if self.wanted and self.runs:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGTERM)
        self.wanted = False

    def end(self) -> None:
        """Send SIGTERM and wait for the end; a worker that freezes itself meanwhile continues."""
        self.leave()
        deadline_s = time.monotonic() + END_S
        while self._process is not None and time.monotonic() < deadline_s:
            self.supervise()
            time.sleep(0.02)
        if self._process is not None:
            self.show()
            self.wrong.append(f"worker {self.worker} does not end within {END_S:.0f} s of SIGTERM")
            self.destroy()

    def destroy(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self._trap = self.traps.pop(0) if self.traps else None
        self._kill_restart_after_s = None
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("KAFKA_", "ANABRANCH_", "FAULT_"))}
        environment |= {**self.bank, "ANABRANCH_OPTIONS": os.environ.get("FAULTS_OPTIONS", "")}  # as debug=eos,broker
        if self._trap is not None:
            environment["FAULT_AT"] = f"{self._trap.point}:{self._trap.nth}:SIG{self._trap.signal}"
        command = [sys.executable, "-m", "anabranch", *self.command()]
        with self.log.open("ab") as log:
            log.write(f"--- start {self.starts}, {environment.get('FAULT_AT', 'no trap')}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        self.starts += 1

    def _ended(self, code: int) -> None:
        self._process.stdin.close()
        self._process, restart_after_s = None, RESTART_DELAY_S
        last_lines = self._last_lines()
        if "Traceback" in last_lines:
            self.wrong.append(f"worker {self.worker} ended with {code} and a traceback: {last_lines}")
        if code == -signal.SIGKILL:
            restart_after_s = self._kill_restart_after_s
            if restart_after_s is None:
                restart_after_s = self._trap.restart_after_s if self._trap is not None else 0.0
        elif code in (0, -signal.SIGTERM) and not self.wanted:  # the latter before it has signal handlers
            pass
        elif code == 1 and "error: " in last_lines:
            self.ends.append(WorkerExit(self.worker, code, last_lines))
        else:
            self.wrong.append(f"worker {self.worker} ended with {code}: {last_lines}")
        self._start_at_s = time.monotonic() + restart_after_s

    def _last_lines(self) -> str:
        """The log of the last process, from its error on; the last three lines without one."""
        lines = self.log.read_text(errors="replace").rpartition("--- start ")[2].splitlines()
        for i, line in enumerate(lines):
            if line.startswith(("error: ", "Traceback")):
                return "\n".join(lines[i : i + 40])
        return "\n".join(lines[-3:])


def damage_stores(data: Path, kind: str, rng: random.Random) -> None:
    """Damage two files of each store on disk: `flip` inverts bytes, `cut` truncates, `lose` removes."""
    for store in sorted(data.glob("**/tables/*")):
        files = sorted(path for path in store.iterdir() if path.is_file() and path.stat().st_size)
        for path in rng.sample(files, min(len(files), 2)):
            size = path.stat().st_size
            if kind == "lose":
                path.unlink()
            elif kind == "cut":
                os.truncate(path, rng.randrange(size))
            else:
                with path.open("r+b") as file:
                    for at in rng.choices(range(size), k=4):
                        file.seek(at)
                        old = file.read(1)
                        file.seek(at)
                        file.write(bytes([old[0] ^ 0xFF]))
