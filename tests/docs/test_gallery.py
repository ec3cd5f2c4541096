"""The examples under docs/examples pass their tests in a folder as a user has one, and are on their pages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import anabranch
import pytest
from pages import ROOT, Page

FOLDER = ROOT / "docs/examples"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith(("test_", "conftest")))


def test_there_are_eight_or_more() -> None:
    assert len(PROGRAMS) >= 8


@pytest.mark.timeout(400)
def test_their_tests_pass(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "examples", ignore=shutil.ignore_patterns("*.md", "__pycache__"))
    path = os.pathsep.join([str(Path(anabranch.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "examples"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=360,
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_page_shows_the_files(program: str) -> None:
    page = Page(f"docs/examples/{program}.md")
    shown = [block.text for block in page.blocks]
    for file in (f"{program}.py", f"test_{program}.py"):
        assert f"# {file}\n{(FOLDER / file).read_text()}" in shown
    inputs = [path for path in FOLDER.glob(f"{program}*") if path.suffix not in (".py", ".md")]
    assert inputs
    for path in inputs:
        assert f"cat > {path.name} <<'END'\n{path.read_text()}END\n" in page.text
    assert f"({program}.md)" in Page("docs/examples/index.md").text
