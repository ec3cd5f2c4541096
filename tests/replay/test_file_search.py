"""Globs and folders find the same files; names of folders give fields."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pytest
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.files.file_search import hidden
from anabranch.replay.sources.format import Format
from anabranch.topics.errors import Usage
from line_files import read, refusal

SHOWN = ["a.jsonl", "b/2.jsonl", "b/c/3.jsonl", "_y=1/4.jsonl"]
HIDDEN = [".x.jsonl", "_SUCCESS.jsonl", "_temporary/0/5.jsonl", "b/.spark/6.jsonl", "b/_old/c/7.jsonl"]


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"k":1}\n')


def found(spec: Path | str, folder: Path, **form: Any) -> list[str]:
    history = find_history([str(spec)], Format(**form))
    return [os.path.relpath(member.path, folder) for member in history.entries]


def records(*specs: Path | str) -> list[Any]:
    return [json.loads(item[1] or b"") for item in read(find_history([str(s) for s in specs], Format()).open())]


def test_a_glob_hides_what_a_folder_hides(tmp_path: Path) -> None:
    write(tmp_path, *SHOWN, *HIDDEN)
    assert found(tmp_path, tmp_path) == sorted(SHOWN)
    assert found(tmp_path / "**", tmp_path) == sorted(SHOWN)
    assert found(tmp_path / "**/*.jsonl", tmp_path) == sorted(SHOWN)
    assert found(tmp_path / "*/*.jsonl", tmp_path) == ["_y=1/4.jsonl", "b/2.jsonl"]
    assert found(tmp_path / "?*.jsonl", tmp_path) == ["a.jsonl"]


def test_a_glob_that_spells_what_is_hidden_finds_it(tmp_path: Path) -> None:
    write(tmp_path, *SHOWN, *HIDDEN)
    assert found(tmp_path / "_*.jsonl", tmp_path) == ["_SUCCESS.jsonl"]
    assert found(tmp_path / "_temporary/*/*.jsonl", tmp_path) == ["_temporary/0/5.jsonl"]
    assert found(tmp_path / "_temporary", tmp_path) == ["_temporary/0/5.jsonl"]
    assert found(tmp_path / "b/.s*/*", tmp_path) == ["b/.spark/6.jsonl"]
    assert found(tmp_path / ".x.jsonl", tmp_path) == [".x.jsonl"]


@pytest.mark.parametrize("name", ["part.csv._COPYING_", "._part.csv", "_metadata"])
def test_what_writers_leave_behind_is_hidden(name: str) -> None:
    assert hidden(name)


def test_globs_are_relative_and_say_names_as_the_user_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, *SHOWN)
    monkeypatch.chdir(tmp_path)
    assert [m.path for m in find_history(["b/*.jsonl"], Format()).entries] == ["b/2.jsonl"]
    assert [m.path for m in find_history(["*.jsonl"], Format()).entries] == ["a.jsonl"]
    assert [m.path for m in find_history(["**/3.jsonl"], Format()).entries] == ["b/c/3.jsonl"]
    assert "no file matches" in refusal(lambda: find_history(["nope/*.jsonl"], Format()))


@pytest.mark.parametrize("spec", ["", "**", "**/*.jsonl", "*/*.jsonl"])
def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    write(tmp_path, *SHOWN)
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    said = refusal(lambda: find_history([str(tmp_path / spec)], Format()))
    assert f"{tmp_path}/b: this folder cannot be read: Permission denied" in said


def test_links_are_followed_and_a_file_behind_two_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, "lake/2013/a.jsonl", "elsewhere/b.jsonl")
    (tmp_path / "lake/latest").symlink_to("2013")
    (tmp_path / "lake/more").symlink_to("../elsewhere")
    (tmp_path / "lake/2013/up").symlink_to("..")
    expected = ["lake/2013/a.jsonl", "lake/more/b.jsonl"]
    assert found(tmp_path / "lake", tmp_path) == expected
    assert found(tmp_path / "lake/**/*.jsonl", tmp_path) == expected
    (tmp_path / "lake/gone.jsonl").symlink_to("nowhere")
    assert "gone.jsonl: No such file" in refusal(lambda: find_history([str(tmp_path / "lake")], Format()))


def test_what_is_no_regular_file_is_refused_where_it_is_found(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for spec in (tmp_path, tmp_path / "*.jsonl", tmp_path / "pipe.jsonl"):
        assert "pipe.jsonl is not a regular file" in refusal(lambda spec=spec: find_history([str(spec)], Format()))


def test_a_name_that_is_no_utf8_is_read_and_told_escaped(tmp_path: Path) -> None:
    path = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.jsonl")
    Path(path).write_text('{"k":1}\nno json\n')
    for spec in (path, str(tmp_path), f"{tmp_path}/*.jsonl"):
        history = find_history([spec], Format(key="k"))
        assert history.identity("t") == find_history([spec], Format(key="k")).identity("t")
        assert history.fingerprint()
        batch = history.open().next_batch()
        assert [item[0] for item in batch.records] == [b"1"]
        assert batch.bad[0].position == f"{tmp_path}/caf\\xe9.jsonl:2"
    assert find_history([path], Format()).specs == (f"{tmp_path}/caf\\xe9.jsonl",)


def test_a_folder_whose_name_is_no_utf8_can_be_no_field(tmp_path: Path) -> None:
    folder = os.fsdecode(bytes(tmp_path) + b"/city=\xe9")
    write(Path(folder), "a.jsonl")
    assert "the name of a folder is not UTF-8" in refusal(lambda: find_history([str(tmp_path)], Format()))


# ---- fields of folders ----


def test_fields_are_the_same_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "year=2013/event-date=2013-01-02/a.jsonl", "year=2012/b.jsonl")
    expected = [{"k": 1, "year": 2013, "event-date": "2013-01-02"}]
    for folder, spec in (
        (".", "year=2013/event-date=2013-01-02/a.jsonl"),
        (".", "year=2013"),
        ("year=2013", "event-date=*/a.jsonl"),
        ("year=2013/event-date=2013-01-02", "a.jsonl"),
        ("year=2013/event-date=2013-01-02", "."),
        ("year=2012", "../year=2013/event-date=2013-01-02/a.jsonl"),
    ):
        monkeypatch.chdir(tmp_path / folder)
        assert records(spec) == expected, (folder, spec)
    (keyed,) = read(find_history([str(tmp_path / "year=2013")], Format(key="event-date")).open())
    assert keyed[0] == b"2013-01-02"


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["zip=01234", "zip=56789"], ["01234", "56789"]),
        (["zip=1", "zip=56789"], [1, 56789]),
        (["n=-1", "n=0"], [-1, 0]),
        (["n=-0", "n=1"], ["-0", "1"]),
        (["n=+1", "n=1"], ["+1", "1"]),
        (["n=1", "n=__HIVE_DEFAULT_PARTITION__"], [1, None]),
        (["n=1", "n=a%20b"], ["1", "a b"]),
        (["n=1%2F2", "n=a=b"], ["1/2", "a=b"]),
        (["n=%FF", "n=100%"], ["%FF", "100%"]),
        (["n=", "n=1"], ["", "1"]),
        (["n=1234567890123456789", "n=1"], ["1234567890123456789", "1"]),
        (["a%20b=1"], [1]),
    ],
)
def test_a_field_has_one_type_over_all_files(tmp_path: Path, folders: list[str], expected: list[Any]) -> None:
    write(tmp_path, *(f"{folder}/a.jsonl" for folder in folders))
    given = [
        value for record in records(*(tmp_path / folder for folder in folders)) for value in list(record.values())[1:]
    ]
    assert given == expected


def test_a_password_of_a_url_is_in_nothing_that_is_kept_or_said() -> None:
    url = "memory://ann:geheim@host/x.jsonl"
    with pytest.raises(Usage) as caught:
        find_history([url], Format())
    assert "geheim" not in str(caught.value)
    assert "ann:***@host" in str(caught.value)
    with fsspec.open(url, "wb") as file:
        file.write(b"no json\n")  # type: ignore[union-attr]
    history = find_history([url], Format())
    told = [*history.specs, history.entries[0].name, history.open().next_batch().bad[0].position]
    assert not [text for text in told if "geheim" in text]


def test_a_glob_that_matches_only_folders_says_how_their_files_are_taken(tmp_path: Path) -> None:
    write(tmp_path, "y=1/a.jsonl", "y=2/b.jsonl")
    message = refusal(lambda: found(tmp_path / "y=*", tmp_path))
    assert "only folders match" in message
    assert f"{tmp_path}/y=*/** matches" in message
    assert found(tmp_path / "y=*/**", tmp_path) == ["y=1/a.jsonl", "y=2/b.jsonl"]
