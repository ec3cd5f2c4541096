"""Each process on a data folder has an identity, which it keeps after a crash and never shares with a copy."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from anabranch.agents.engine import worker_identity
from anabranch.agents.engine.worker_identity import Identity
from anabranch.topics.errors import Stop

# Takes a slot, says which, and keeps it until its input ends.
HOLDER = """
import sys
from pathlib import Path
from anabranch.agents.engine.worker_identity import Identity
held = Identity(Path(sys.argv[1]))
print(held.slot, held.name, flush=True)
sys.stdin.read()
"""


def named(data: Path) -> str:
    with Identity(data) as held:
        return held.name


def note(data: Path) -> Path:
    return data / "identity" / "0.json"


def test_two_workers_on_one_folder_are_two(tmp_path: Path) -> None:
    with Identity(tmp_path) as one, Identity(tmp_path) as two:
        assert (one.slot, two.slot) == (0, 1)
        assert one.name != two.name


def test_a_released_slot_has_the_same_name_again(tmp_path: Path) -> None:
    first = Identity(tmp_path)
    first.release()
    first.release()  # twice does no harm
    assert named(tmp_path) == first.name


def test_the_first_free_slot_is_taken(tmp_path: Path) -> None:
    one, two = Identity(tmp_path), Identity(tmp_path)
    one.release()
    with Identity(tmp_path) as three:
        assert (three.slot, three.name) == (0, one.name)
    two.release()


def test_a_killed_process_has_the_same_name_again(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        slot, name = process.stdout.readline().split()
        with Identity(tmp_path) as beside:
            assert (slot, beside.slot) == ("0", 1)
            assert beside.name != name
        process.kill()
    assert named(tmp_path) == name


def test_a_copied_folder_has_a_name_of_its_own(tmp_path: Path) -> None:
    original = named(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copy = named(tmp_path / "b")
    assert copy != original
    assert named(tmp_path / "b") == copy
    assert named(tmp_path / "a") == original


def test_a_folder_that_moved_keeps_its_name(tmp_path: Path) -> None:
    original = named(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert named(tmp_path / "b") == original


def test_another_host_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = named(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert named(tmp_path) != original


DAMAGE = {
    "cut off": lambda text: text[: len(text) // 2],
    "empty": lambda _: "",
    "no JSON": lambda _: "\0" * 100,
    "a list": lambda _: "[]",
    "nested without end": lambda _: "[" * 5000,
    "without a name": lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "name"}),
    "an empty name": lambda text: json.dumps({**json.loads(text), "name": ""}),
    "a name that is none": lambda text: json.dumps({**json.loads(text), "name": None}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_gets_a_new_name_that_stays(tmp_path: Path, damage) -> None:
    original = named(tmp_path)
    note(tmp_path).write_text(damage(note(tmp_path).read_text()))
    renamed = named(tmp_path)
    assert renamed not in ("", "None", original)
    assert named(tmp_path) == renamed


def test_nobody_else_can_read_or_write_the_name(tmp_path: Path) -> None:
    named(tmp_path)
    assert note(tmp_path).stat().st_mode & 0o077 == 0


def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Identity(tmp_path), Identity(tmp_path), Identity(tmp_path):
        pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_full_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_identity, "MAX_SLOTS", 1)
    with Identity(tmp_path), pytest.raises(Stop, match="all 1 identities are taken"):
        Identity(tmp_path)
