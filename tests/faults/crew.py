"""Worker processes under a supervisor as an operator would have one: who ends is started again, and it is noted why."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from plan import Trap

__all__ = ["End", "Worker"]

BANK = Path(__file__).parent / "bank.py"
AGAIN_S = 0.5
SHOW_S = 2.0
END_S = 60.0  # more than a worker takes at the most (`agents/worker.py`)


@dataclass(frozen=True)
class End:
    """A worker ended by itself."""

    who: int
    code: int
    words: str

    def __str__(self) -> str:
        return f"worker {self.who} ended with {self.code}: {self.words}"


@dataclass
class Worker:
    """One worker and its data folder, over all its processes.

    Attributes:
        bank: environment of the processes.
        traps: one for each start, as long as there are any.
        wanted: False once it was told to leave.
        ends: how it ended where nobody made it.
        wrong: what a worker must never do.
    """

    who: int
    bank: dict[str, str]
    folder: Path
    traps: list[Trap] = field(default_factory=list)
    wanted: bool = True
    ends: list[End] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _trap: Trap | None = None
    _start_at_s: float = 0.0
    _continue_at_s: float = 0.0
    _killed_again_s: float | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"worker-{self.who}.log"

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def ready(self) -> bool:
        """Whether it has ever been."""
        return self.log.exists() and "ready on" in self.log.read_text(errors="replace")

    @property
    def settled(self) -> bool:
        """Whether nothing is going to happen to it any more."""
        return self.runs and not self._frozen

    @property
    def _frozen(self) -> bool:
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except (FileNotFoundError, AttributeError):
            return False
        return stat.rpartition(")")[2].split()[0] == "T"

    def command(self) -> list[str]:
        """What it is asked to do, as a user types it."""
        data = ["--datadir", str(self.folder / f"data-{self.who}"), "--end-with-stdin"]
        return ["-A", str(BANK), "worker", "--without-web", "-l", "info", *data]

    def supervise(self) -> None:
        """Start it where it is due, let it go on where it has been frozen long enough."""
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
                self._continue_at_s = now + (self._trap.again_s if self._trap is not None else 1.0)
            if now >= self._continue_at_s:
                self._continue_at_s = 0.0
                self._process.send_signal(signal.SIGCONT)

    def kill(self, again_s: float) -> None:
        if self.runs:
            self._killed_again_s = again_s
            self._process.kill()

    def damage(self, how: str, seed: int) -> None:
        """Kill it, and let it come back to stores that are not what it left."""
        self.kill(0.0)
        if self._process is not None:
            self._process.wait()
            spoil(self.folder / f"data-{self.who}", how, random.Random(seed))

    def freeze(self, for_s: float) -> None:
        if self.runs:
            self._continue_at_s = time.monotonic() + for_s
            self._process.send_signal(signal.SIGSTOP)

    def show(self) -> None:
        """Write into its log where it stands."""
        if self.runs:
            size, deadline_s = self.log.stat().st_size, time.monotonic() + SHOW_S
            self._process.send_signal(signal.SIGUSR1)
            while self.log.stat().st_size == size and time.monotonic() < deadline_s:
                time.sleep(0.05)

    def leave(self) -> None:
        if self.wanted and self.runs:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGTERM)
        self.wanted = False

    def end(self) -> None:
        """SIGTERM to who still runs, and wait."""
        self.leave()
        if self._process is not None:
            try:
                self._ended(self._process.wait(END_S))
            except subprocess.TimeoutExpired:
                self.show()
                self.wrong.append(f"worker {self.who} does not end within {END_S:.0f} s of SIGTERM")
                self.destroy()

    def destroy(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self._trap = self.traps.pop(0) if self.traps else None
        self._killed_again_s = None
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
        self._process, again_s = None, AGAIN_S
        words = self._last_words()
        if "Traceback" in words:
            self.wrong.append(f"worker {self.who} ended with {code} and a traceback: {words}")
        if code == -signal.SIGKILL:
            again_s = self._killed_again_s
            if again_s is None:
                again_s = self._trap.again_s if self._trap is not None else 0.0
        elif code in (0, -signal.SIGTERM) and not self.wanted:  # the latter before it listens to signals
            pass
        elif code == 1 and "error: " in words:
            self.ends.append(End(self.who, code, words))
        else:
            self.wrong.append(f"worker {self.who} ended with {code}: {words}")
        self._start_at_s = time.monotonic() + again_s

    def _last_words(self) -> str:
        """What the last process said, from its error on."""
        said = self.log.read_text(errors="replace").rpartition("--- start ")[2].splitlines()
        for i, line in enumerate(said):
            if line.startswith(("error: ", "Traceback")):
                return "\n".join(said[i : i + 40])
        return "\n".join(said[-3:])


def spoil(data: Path, how: str, rng: random.Random) -> None:
    """Damage each store on disk: `flip` turns bytes over, `cut` shortens a file, `lose` removes some."""
    for store in sorted(data.glob("**/tables/*")):
        files = sorted(path for path in store.iterdir() if path.is_file() and path.stat().st_size)
        for path in rng.sample(files, min(len(files), 2)):
            size = path.stat().st_size
            if how == "lose":
                path.unlink()
            elif how == "cut":
                os.truncate(path, rng.randrange(size))
            else:
                with path.open("r+b") as file:
                    for at in rng.choices(range(size), k=4):
                        file.seek(at)
                        old = file.read(1)
                        file.seek(at)
                        file.write(bytes([old[0] ^ 0xFF]))
