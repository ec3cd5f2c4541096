"""Files that are replaced as a whole: what a killed process leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from anabranch.topics.durable_files import replace_file


def test_a_file_is_replaced_and_nothing_else_remains(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        replace_file(tmp_path / "state.json", content)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"state.json": b"new"}


def test_the_part_of_a_killed_process_is_removed_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    parts = [f".state.json.{pid}.part" for pid in (ended.pid, "99999999999999999999", os.getppid())]
    others = [".other.json.1.part", f".state.json.old.{ended.pid}.part", ".state.json..part", "state.json.part"]
    for name in parts + others:
        (tmp_path / name).write_bytes(b"x")
    replace_file(tmp_path / "state.json", b"{}")
    assert {path.name for path in tmp_path.iterdir()} == {"state.json", parts[-1], *others}
