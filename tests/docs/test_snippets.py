"""The examples of the documentation run as printed, and print what the pages quote.

A page is played from top to bottom in an empty folder. The language of a block says how:

| block | |
| --- | --- |
| `python` | is executed; the blocks of a page share their names. A first line `# shop.py` also saves it as that file |
| `python`, first line `# shop.py, continued` | is executed and added to that file |
| `python`, first line `# test_shop.py` | is saved as that file, for `$ pytest` |
| `sh` | is one script and has to end with exit code 0 |
| `console` | commands behind `$ `, each followed by its output; an exit code other than 0 is shown by `$ echo $?` |
| anything else | is not played |

A script of one command that runs until it is stopped (`worker`, or with `--follow`) is started in the background and
stopped by SIGTERM at the end of the page. While one runs, a command that only reads is repeated until it prints what
the page quotes.

A page quotes standard output, or standard output and then standard error. In quoted output `…` stands for anything, a
line `…` for any number of lines, and numbers with a unit of time, and run ids, for any others. Apps and topics get a
suffix of their own, so that tests may share a broker.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from anabranch.topics.cluster import Cluster
from pages import PAGES, Block, Page

PLAYED = {"python", "sh", "console"}
AWAIT_S = 30.0
READY_S = 30.0
END_S = 40.0

_FILE_NAME = re.compile(r"# ([\w./-]+\.\w+)(, continued)?\n")
_SERVICE = re.compile(r"anabranch\b.*(\bworker\b|--follow\b)")
_READS = re.compile(r"^anabranch\b.*\b(tables(?! backup| restore)|dlq list|dlq show)\b")
_CREATED = re.compile(r"""\bApp\(\s*["']([\w-]+)|\btopic\(\s*["']([\w-]+)|--to ([\w-]+)|topic://([\w-]+)""")


def played(page: str) -> bool:
    return any(block.language in PLAYED for block in Page(page).blocks)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", [page for page in PAGES if played(page)])
def test_the_examples_of_a_page_run_as_printed(page: str, tmp_path: Path, broker: Cluster) -> None:
    with Play(Page(page), tmp_path, broker) as play:
        for block in play.page.blocks:
            play.run(block)


# Blocks with commands that are not played: page and first word -> why.
NOT_PLAYED = {
    ("CONTRIBUTING.md", "git"): "CI does it",
    ("CONTRIBUTING.md", "ANABRANCH_TEST_BROKER=memory"): "runs tests",
    ("README.md", "python3"): "`test_install.py` plays it",
    ("README.md", "make"): "CI runs `make test`",
    ("deploy/README.md", "docker"): "needs a Docker engine",
    ("docs/getting-started.md", "python3"): "`test_install.py` compares it with README's",
    ("docs/getting-started.md", "pip"): "the tests have pytest",
    ("docs/operating.md", "anabranch"): "need a cluster with TLS: `tests/integration/test_tls.py`",
    ("docs/privacy.md", "anabranch"): "need a secret in the environment: `tests/replay` has pseudonyms",
    ("docs/projects.md", "$"): "the output of an app with more content",
}
_COMMAND = re.compile(
    r"^(\$ .*|(?:\w+=\S+ )*(?:anabranch|make|pip|python3?|pytest|docker|git|source) .*)$", re.MULTILINE
)


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_played_or_it_is_said_why_not(page: str) -> None:
    others = [block for block in Page(page).blocks if block.language not in {*PLAYED, "mermaid"}]
    commands = [block.text.split(maxsplit=1)[0] for block in others if _COMMAND.search(block.text)]
    assert [word for word in commands if (page, word) not in NOT_PLAYED] == []


class Play:
    """One page, on its way from top to bottom.

    Attributes:
        names: what the page's Python blocks have defined.
    """

    def __init__(self, page: Page, folder: Path, broker: Cluster) -> None:
        self.page = page
        self.folder = folder
        self.names: dict[str, object] = {"__name__": Path(page.path).stem}
        self._suffix = f"x{uuid.uuid4().hex[:6]}"
        found = {name for block in page.blocks for match in _CREATED.findall(block.text) for name in match if name}
        longest_first = sorted(found, key=len, reverse=True)
        self._created = re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})\b") if found else None
        self._services: list[Service] = []
        self._environment = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "200",
            "ANABRANCH_TEST_BROKER": broker.bootstrap_servers,
            # Loaded as its entry point loads it, which an editable install from before does not have.
            "PYTEST_PLUGINS": "anabranch.replay.testing.plugin",
        }

    def __enter__(self) -> Play:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        for service in self._services:
            service.end()
        if kind is None:
            for service in self._services:
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
                if named[1].startswith("test_"):
                    return
            with _inside(self.folder):
                exec(compile(text, where, "exec"), self.names)  # our own page
        elif block.language == "sh" and _is_service(text):
            self._services.append(Service(text, where, self.folder, self._environment))
        elif block.language == "sh":
            code, printed, errors = self._shell(text)
            assert code == 0, f"{where}: exit code {code}\n{printed}{errors}"
        elif block.language == "console":
            self._console(text, where)

    def _console(self, text: str, where: str) -> None:
        last = 0
        for command, quoted in _commands(text, self._suffix):
            if command == "echo $?":
                assert quoted.strip() == str(last), f"{where}: the command before `echo $?` ended with {last}"
                last = 0
                continue
            assert last == 0, f"{where}: the command before {command!r} ended with exit code {last}"
            deadline = time.monotonic() + (AWAIT_S if self._services and _READS.match(command) else 0.0)
            while True:
                last, printed, errors = self._shell(command)
                output = printed + errors
                matched = matches(quoted, printed) or matches(quoted, output)
                if matched or time.monotonic() > deadline:
                    break
                time.sleep(0.5)
            assert matched, f"{where}: $ {command}\nprinted:\n{output}\nquoted:\n{quoted}"
        assert last == 0, f"{where}: the last command ended with exit code {last}"

    def _shell(self, script: str) -> tuple[int, str, str]:
        """Run a script; returns its exit code, standard output and standard error."""
        ended = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
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


@pytest.mark.parametrize(
    ("quoted", "output"),
    [
        ("processed 3 records in 4.1 s", "processed 3 records in 12 s"),
        ("3 records   run 14dbffa5", "3 records   run 0be491e5"),
        ("a …", "a b c"),
        ("first\n…\nlast", "first\n1\n2\nlast"),
        ("first\n…\nlast", "first\nlast"),
        ("┏━━━━━┓", "┏━━━━━━━━┓"),
        ("", "anything"),
    ],
)
def test_quoted_output_may_differ_in_what_varies(quoted: str, output: str) -> None:
    assert matches(quoted, output)


@pytest.mark.parametrize(
    ("quoted", "output"),
    [("ann 8", "ann 9"), ("first", "first\nsecond"), ("first\n…\nlast", "first\n1"), ("3 keys", "4 keys")],
)
def test_quoted_output_may_not_differ_otherwise(quoted: str, output: str) -> None:
    assert not matches(quoted, output)
