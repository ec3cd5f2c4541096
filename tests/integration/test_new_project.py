"""`anabranch new`: its test passes, and it runs over its sample at once."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_a_new_project_runs_and_its_test_passes(shell, fresh):
    name = fresh("my-shop")
    made = shell.run("new", name)
    assert made.returncode == 0, made.stderr
    assert f"wrote {name}/README.md" in made.stdout
    again = shell.run("new", name)
    assert (again.returncode, "nothing is overwritten" in again.stderr) == (2, True)
    shell.folder /= name
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "anabranch.replay.testing.plugin"],
        cwd=shell.folder,
        env=shell.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "2 passed" in tested.stdout, tested.stdout + tested.stderr
    ran = shell.run("run", "--input", "orders.jsonl", "--key", "user", "--output", "totals.csv")
    assert ran.returncode == 0, ran.stderr
    assert (shell.folder / "totals.csv").read_text() == "key,value\nann,7\nbob,151\ncyd,12\n"


@pytest.mark.parametrize("name", ["Shop", "../shop", "class", "json", "anabranch", "x" * 101, "9shop", ""])
def test_names_that_cannot_be_an_app_and_a_module_are_refused(tmp_path, name):
    from anabranch.replay.project_template import create_project
    from anabranch.topics.errors import Usage

    with pytest.raises(Usage):
        create_project(name, tmp_path)
    assert list(tmp_path.iterdir()) == []
