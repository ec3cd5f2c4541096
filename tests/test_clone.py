"""Style checks give the same result in a clone of any folder name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import anabranch
import pytest

ROOT = Path(anabranch.__file__).parent


@pytest.mark.parametrize("name", ["Anabranch-2", "my clone"])
def test_style_is_checked_alike_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    clone = tmp_path / name
    clone.mkdir()
    shutil.copy(ROOT / "pyproject.toml", clone)
    shutil.copy(ROOT / "__init__.py", clone)
    for room in ("topics", "agents", "replay", "tests"):
        shutil.copytree(ROOT / room, clone / room, ignore=shutil.ignore_patterns("__pycache__", "*.json", "peers"))
    ended = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "N999,I", "."],
        cwd=clone,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-2000:]
