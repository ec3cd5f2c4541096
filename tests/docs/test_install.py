"""The lines that README and docs/getting-started.md name for the installation work in a clone of any name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from pages import ROOT, Page

# From an installation outside of the clone: each package, and the data beside the modules.
CHECK = """
import importlib, pkgutil, anabranch
found = [each.name for each in pkgutil.walk_packages(anabranch.__path__, "anabranch.")]
for name in found:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(found), anabranch.__file__)
"""


def clone(folder: Path) -> Path:
    """Copy the files of the repository, without what make and Python have written."""
    left_out = shutil.ignore_patterns(
        ".git", ".venv", "build", "*.egg-info", ".*_cache", "__pycache__", "*-data", ".anabranch"
    )
    return Path(shutil.copytree(ROOT, folder, ignore=left_out, symlinks=True))


def installation(page: str) -> str:
    return next(block.text for block in Page(page).blocks if "pip install ." in block.text)


def test_both_pages_install_alike() -> None:
    lines = [re.sub(r" *#.*", "", line) for line in installation("docs/getting-started.md").splitlines()]
    assert lines == ["python3 -m venv .venv", ". .venv/bin/activate", "pip install .", "anabranch --version"]
    short = re.sub(r" *#.*", "", installation("README.md"))
    assert short == "python3 -m venv ~/venv && . ~/venv/bin/activate\npip install .\n"


@pytest.mark.timeout(400)
def test_the_lines_of_the_installation_work(tmp_path: Path) -> None:
    # The dependencies are those of this environment: downloading them would take a minute.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HOME": str(tmp_path), "PIP_NO_DEPS": "1", "PYTHONPATH": sysconfig.get_path("purelib")}
    environment["PATH"] = f"{Path(sys.executable).resolve().parent}{os.pathsep}{environment['PATH']}"
    script = f"set -e\n{installation('README.md')}\ncd /\nanabranch --version\npython - <<'END'\n{CHECK}\nEND\n"
    ended = subprocess.run(
        ["bash", "-c", script],
        cwd=clone(tmp_path / "first steps"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=360,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    packages, place = ended.stdout.splitlines()[-1].split(maxsplit=1)
    assert int(packages) > 200
    assert place.startswith(str(tmp_path))
    assert "anabranch, version" in ended.stdout
