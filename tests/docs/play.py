"""Plays the blocks of a page, from top to bottom, as a reader does: in one terminal, and in an editor beside it.

The language of a block says how:

| block | |
| --- | --- |
| `python` | is executed; the blocks of a page share their names. A first line `# shop.py` also saves it as that file |
| `python`, first line `# shop.py, continued` | is executed, if the page has the beginning, and added to that file |
| `python`, first line `# test_shop.py` | is saved as that file, for `$ pytest` |
| `sh` | is one script and has to end with exit code 0 |
| `console` | commands behind `$ `, each followed by its output; an exit code other than 0 is shown by `$ echo $?` |
| `<!-- Ctrl-C -->` | ends what runs in the background |
| anything else | is not played |

Folder and environment (`cd shop`, `export KEY=…`, `. .venv/bin/activate`) stay for the blocks that follow. A script of
one command that runs until it is stopped (`worker`, or with `--follow`) is started in the background and stopped by
SIGTERM, at the end of the page at the latest. While one runs, a command that only reads is repeated until it prints
what the page quotes.

A page quotes standard output, or standard output and then standard error. In quoted output `…` stands for anything, a
line `…` for any number of lines, and numbers with a unit of time, and run ids, for any others.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pages import CTRL_C, Block, Page

__all__ = ["Play", "matches"]

# What the script of a terminal leaves for the next one: its folder and its variables, each with a NUL behind it.
_LEAVE = "{ printf '%s\\0' \"$PWD\"; env -0; }"

TIMEOUT_S = 300.0
AWAIT_S = 90.0
READY_S = 90.0
END_S = 90.0

_FILE_NAME = re.compile(r"# ([\w./-]+\.\w+)(, continued)?\n")
_SERVICE = re.compile(r"anabranch\b.*(\bworker\b|--follow\b)")
_READS = re.compile(r"^anabranch\b.*\b(tables(?! backup| restore)|dlq list|dlq show|report)\b")
_CREATED = re.compile(r"""\bApp\(\s*["']([\w-]+)|\btopic\(\s*["']([\w-]+)|--to ([\w-]++)(?!/)|topic://([\w-]+)""")


class Play:
    """One page, on its way from top to bottom.

    Args:
        folder: where the reader is at first.
        environment: of all commands.
        suffix: is added to the names of apps and topics, so that tests may share a broker. It does not appear in what
            is compared.

    Attributes:
        folder: where the reader is now.
        names: what the page's Python blocks have defined.
    """

    def __init__(self, page: Page, folder: Path, environment: Mapping[str, str], *, suffix: str = "") -> None:
        self.page = page
        self.folder = folder
        self.names: dict[str, object] = {"__name__": Path(page.path).stem}
        self._suffix = suffix
        found = {name for block in page.blocks for match in _CREATED.findall(block.text) for name in match if name}
        longest_first = sorted(found, key=len, reverse=True)
        self._created = re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})\b") if found and suffix else None
        self._written: set[str] = set()
        self._running: list[Service] = []
        self._environment = {**environment, "COLUMNS": "200"}
        self._left = folder / f".terminal-{uuid.uuid4().hex[:6]}"

    def __enter__(self) -> Play:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._end_services(check=kind is None)
        self._left.unlink(missing_ok=True)

    def _end_services(self, *, check: bool = True) -> None:
        ending, self._running = self._running, []
        for service in ending:
            service.end()
        for service in ending if check else ():
            service.check()

    def run(self, block: Block) -> None:
        """Play one block.

        Raises:
            AssertionError: it failed, or printed something else.
        """
        text, where = self._renamed(block.text), f"{self.page.path}:{block.line}"
        if block.language == "python":
            if named := _FILE_NAME.match(text):
                with (self.folder / named[1]).open("a" if named[2] else "w") as file:
                    file.write(text)
                if not named[2]:
                    self._written.add(named[1])
                if named[1].startswith("test_") or named[1] not in self._written:
                    return
            with _inside(self.folder):
                exec(compile(text, where, "exec", dont_inherit=True), self.names)  # our own page
        elif block.language == "sh" and _is_service(text):
            self._running.append(Service(text, where, self.folder, self._environment))
        elif block.language == "sh":
            code, printed, errors = self.shell(text)
            assert code == 0, f"{where}: exit code {code}\n{printed}{errors}"
        elif block.language == "console":
            self._console(text, where)
        elif block.language == CTRL_C:
            self._end_services()

    def _console(self, text: str, where: str) -> None:
        last = 0
        for command, quoted in _commands(text, self._suffix):
            if command == "echo $?":
                assert quoted.strip() == str(last), f"{where}: the command before `echo $?` ended with {last}"
                last = 0
                continue
            assert last == 0, f"{where}: the command before {command!r} ended with exit code {last}"
            deadline = time.monotonic() + (AWAIT_S if self._running and _READS.match(command) else 0.0)
            while True:
                last, printed, errors = self.shell(command)
                output = printed + errors
                matched = matches(quoted, printed) or matches(quoted, output)
                if matched or time.monotonic() > deadline:
                    break
                time.sleep(0.5)
            assert matched, f"{where}: $ {command}\nprinted:\n{output}\nquoted:\n{quoted}"
        assert last == 0, f"{where}: the last command ended with exit code {last}"

    def shell(self, script: str) -> tuple[int, str, str]:
        """Run a script; returns its exit code, standard output and standard error."""
        leave = shlex.quote(f"{_LEAVE} > {shlex.quote(str(self._left))}")
        ended = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", f"trap {leave} EXIT\n{script}"],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        folder, *variables = self._left.read_text().split("\0")[:-1]
        self.folder = Path(folder)
        self._environment = dict(variable.split("=", 1) for variable in variables)
        return ended.returncode, ended.stdout.replace(self._suffix, ""), ended.stderr.replace(self._suffix, "")

    def _renamed(self, text: str) -> str:
        return self._created.sub(lambda match: match[0] + self._suffix, text) if self._created else text


class Service:
    """A command that runs until it is told to end."""

    def __init__(self, script: str, where: str, folder: Path, environment: dict[str, str]) -> None:
        self._where = where
        self._log = folder / f".service-{uuid.uuid4().hex[:6]}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", f"exec {script.strip()}"],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + READY_S
        while " worker" in script and "ready" not in self._log.read_text():
            assert self._process.poll() is None, f"{where}: ended\n{self._log.read_text()}"
            assert time.monotonic() < deadline, f"{where}: not ready\n{self._log.read_text()}"
            time.sleep(0.1)

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        code = self._process.returncode
        assert code == 0, f"{self._where}: exit code {code}\n{self._log.read_text()}"


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _is_service(script: str) -> bool:
    lines = shlex.split(script, comments=True)
    return len(script.strip().splitlines()) == 1 and bool(_SERVICE.match(" ".join(lines)))


def _commands(text: str, suffix: str) -> Iterator[tuple[str, str]]:
    """Commands of a console block, each with its quoted output, which is without the suffix."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        end = next(number for number, line in enumerate(lines) if not line.endswith("\\"))
        yield "\n".join(lines[: end + 1]), "\n".join(lines[end + 1 :]).replace(suffix, "")


# What differs from run to run, or with the length of a name.
_VARIABLE = [
    (re.compile(r"\x1b\[[0-9;?]*[A-Za-z]"), ""),
    (re.compile(r"\b20[2-9]\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d([.,]\d+)?Z?"), "<time>"),
    (re.compile(r"\b[\d.,]+(?= (ns|µs|ms|s|min|h|MB|kB|KB)\b| records/s| rows/s)"), "<number>"),
    (re.compile(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])([0-9a-f]{8}|[0-9a-f]{16})\b"), "<id>"),
    (re.compile(r"(?<= in )[\d.]+s\b"), "<number>s"),  # pytest
    (re.compile(r"(━+|─+)"), "━"),
    (re.compile(r"[ \t]+"), " "),
]


def _lines(text: str) -> list[str]:
    for pattern, replacement in _VARIABLE:
        text = pattern.sub(replacement, text)
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith('{"progress"')]


def matches(quoted: str, output: str) -> bool:
    """Whether `output` is what a page quotes."""
    if not quoted.strip():
        return True
    parts = [r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r"\n" for line in _lines(quoted)]
    return re.fullmatch("".join(parts), "".join(f"{line}\n" for line in _lines(output))) is not None
