"""Environments of the peers: Python environments and Java programs, installed once into a folder of the bench.

    <cache>/envs/NAME-HASH/     a virtual environment; HASH is that of its requirements, so new pins make a new one
    <cache>/NAME-HASH/          classes and jars of a Java program; HASH is that of its sources
    <cache>/data/               the files of `amounts.py`

What is whole carries a file `complete`. Peers are other people's programs with pins of their own (Quix Streams wants an
older confluent-kafka than we), so none of it is ever installed beside anabranch.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PROGRAMS", "Maven", "Missing", "Python", "java"]

PROGRAMS = Path(__file__).parent / "programs"
_PATIENCE_S = 900
_JAVA = 17

Tell = Callable[[str], None]


class Missing(Exception):
    """A peer cannot be had on this machine; the text says why. It is left out, and the others are measured."""


@dataclass(frozen=True, slots=True)
class Python:
    """A virtual environment with pinned packages.

    Attributes:
        needs_java: the packages are no use without a Java to run.
    """

    name: str
    requirements: tuple[str, ...]
    needs_java: bool = False

    def get(self, cache: Path, tell: Tell) -> Path:
        """Its interpreter.

        Raises:
            Missing: there is no Java, or pip cannot install the packages.
        """
        if self.needs_java:
            java()
        root = cache / "envs" / f"{self.name}-{_hash(self.requirements)}"
        python = root / "bin" / "python"
        if not (root / "complete").exists():
            tell(f"making the environment of {', '.join(self.requirements)}")
            shutil.rmtree(root, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(root)], f"no environment for {self.name}")
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *self.requirements]
            _run(pip, f"pip cannot install {self.name}")
            (root / "complete").touch()
        return python


@dataclass(frozen=True, slots=True)
class Maven:
    """A Java program, compiled.

    Attributes:
        name: of its folder in `programs`; peer: whose program it is.
    """

    name: str
    peer: str

    def get(self, cache: Path, tell: Tell) -> list[str]:
        """The beginning of its command line: Java and the class path; options and the main class follow.

        Raises:
            Missing: there is no Java, no Maven, or Maven cannot build it.
        """
        run = java()
        maven = shutil.which("mvn")
        if maven is None:
            raise Missing("no Maven (mvn) on the path")
        folder = PROGRAMS / self.name
        sources = sorted(path for path in folder.rglob("*") if path.is_file())
        root = (cache / f"{self.name}-{_hash(path.read_text() for path in sources)}").absolute()
        if not (root / "complete").exists():
            tell(f"building the {self.peer} program")
            shutil.rmtree(root, ignore_errors=True)
            goals = ["compile", "dependency:copy-dependencies", "-DincludeScope=runtime"]
            places = [f"-Dtarget={root}", f"-DoutputDirectory={root / 'jars'}"]
            _run([maven, "-q", "-B", "-f", str(folder / "pom.xml"), *goals, *places], "Maven cannot build it")
            (root / "complete").touch()
        return [run, "-cp", f"{root / 'classes'}{os.pathsep}{root / 'jars'}/*"]


def java() -> str:
    """A Java that the user has: `$JAVA_HOME`, else the first on the path.

    Raises:
        Missing: there is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if found is None:
        raise Missing("no Java on the path")
    try:
        said = subprocess.run([found, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    except (OSError, subprocess.SubprocessError) as exc:
        raise Missing(f"Java does not run: {exc}") from exc
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < _JAVA:
        raise Missing(f"Java {_JAVA} or newer is needed; {found} is {said.splitlines()[0] if said else 'mute'}")
    return found


def _run(command: list[str], trouble: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except (OSError, subprocess.SubprocessError) as exc:
        raise Missing(f"{trouble}: {exc}") from exc
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Missing(f"{trouble}: {said[-1] if said else f'ended with {done.returncode}'}")


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:10]
