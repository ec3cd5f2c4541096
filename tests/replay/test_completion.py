"""The scripts of `anabranch completion`, in a real bash; those for zsh and fish are printed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from fork_server import ForkServer

APP = """
from anabranch import App
print("what a program prints is not a completion")
app = App("shop")
app.topic("orders")
app.Table("totals")

@app.command()
async def report():
    '''Show all totals.'''
"""
SCRIPT = """
source <(anabranch completion bash)
try() {
  COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); COMPREPLY=()
  _anabranch_completion anabranch; echo "${COMPREPLY[*]}"
}
try anabranch wo
try anabranch -A sh
try anabranch -A shop rep
try anabranch -A shop tables to
try anabranch -A shop tail o
try anabranch worker --web-p
echo 'app = "shop"' > anabranch.toml
try anabranch tables to
try anabranch tail o
complete -p anabranch
"""


@pytest.fixture
def environment(tmp_path: Path, forks: ForkServer) -> dict[str, str]:
    (tmp_path / "shop.py").write_text(APP)
    return {**os.environ, "PATH": f"{forks.program.parent}{os.pathsep}{os.environ['PATH']}"}


def test_bash_completes_commands_options_apps_tables_and_topics(tmp_path: Path, environment: dict[str, str]) -> None:
    ran = subprocess.run(["bash", "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True)
    of_the_file = ["totals", "orders"]
    assert ran.stdout.splitlines()[:-1] == [
        *["worker", "shop", "replay report", "totals", "orders", "--web-port"],
        *of_the_file,
    ], ran
    assert "-F _anabranch_completion anabranch" in ran.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("shell", "words"), [("zsh", "compdef _anabranch_completion"), ("fish", "complete --no-files")]
)
def test_scripts_of_other_shells_are_printed(tmp_path: Path, environment, shell, words) -> None:
    ran = subprocess.run(["anabranch", "completion", shell], env=environment, capture_output=True, text=True)
    assert words in ran.stdout, ran
