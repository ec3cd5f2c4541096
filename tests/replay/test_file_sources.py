"""Files that a source reads: folders, globs, members of archives, URLs, fields of folders; Parquet and Avro."""

from __future__ import annotations

import builtins
import datetime as dt
import decimal
import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import fastavro
import fsspec
import polars
import pytest
from anabranch.replay.sources.file_history import FileHistory, find_history
from anabranch.replay.sources.format import Format
from anabranch.topics.errors import Usage
from line_files import Reading, read, read_file


def write(path: Path, data: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def names(history: FileHistory, folder: Path) -> list[str]:
    return [member.name.removeprefix(f"{folder}/") for member in history.entries]


def test_a_folder_is_read_with_all_below_it_in_order_and_without_what_is_hidden(tmp_path: Path) -> None:
    for name in (
        "b/2.csv",
        "a.jsonl",
        "b/10.txt.gz",
        "notes.md",
        ".hid/x.csv",
        "b/_SUCCESS.txt",
        "_tmp/y.csv",
        "b/.x.csv",
    ):
        write(tmp_path / name)
    history = find_history([str(tmp_path)], Format())
    assert names(history, tmp_path) == ["a.jsonl", "b/10.txt.gz", "b/2.csv"]
    assert history.left_out == (f"{tmp_path}/notes.md",)
    with pytest.raises(Usage, match="with a known extension"):
        find_history([str(tmp_path / "*.md")], Format())


def test_members_of_archives_can_be_chosen(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("in/b.txt", "in/a.txt", "c.csv"):
            archive.writestr(name, name)
    assert names(find_history([f"{tmp_path}/all.zip!in/*.txt"], Format()), tmp_path) == [
        "all.zip!in/a.txt",
        "all.zip!in/b.txt",
    ]
    with pytest.raises(Usage, match=r"it holds: in/b\.txt"):
        find_history([f"{tmp_path}/all.zip!nope"], Format())
    with pytest.raises(Usage, match="given twice"):
        find_history([f"{tmp_path}/all.zip!c.csv"] * 2, Format())


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "avro"])
def test_names_of_folders_are_fields(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "year=2013" / "month=01" / "city=S%C3%A3o%20Paulo" / "none=__HIVE_DEFAULT_PARTITION__"
    folder.mkdir(parents=True)
    frame = polars.DataFrame({"k": ["a"], "month": [7]})
    path = folder / f"f.{kind}"
    if kind == "csv":
        frame.write_csv(path)
    elif kind == "jsonl":
        frame.write_ndjson(path)
    elif kind == "parquet":
        frame.write_parquet(path)
    else:
        fields = [{"name": "k", "type": "string"}, {"name": "month", "type": "int"}]
        with path.open("wb") as out:
            fastavro.writer(out, {"type": "record", "name": "r", "fields": fields}, frame.to_dicts())
    format = Format(key='f"{k}-{year}-{city}"', headers=(("y", "year"),))
    history = find_history([str(tmp_path)], format)
    history.check("t")
    (item,) = read(history.open())
    # What stands in the record wins over what stands above it.
    expected = {"k": "a", "month": 7, "year": 2013, "city": "São Paulo", "none": None}
    assert json.loads(item[1] or b"") == expected
    assert (item[0], item[3]) == ("a-2013-São Paulo".encode(), [("y", b"2013")])
    (plain,) = read(find_history([str(tmp_path)], Format(key="year")).open())
    assert plain[0] == b"2013"


def test_urls_are_opened_by_fsspec(tmp_path: Path) -> None:
    for name, data in (("a.csv", b"k,n\nx,1\n"), ("b.jsonl.gz", gzip.compress(b'{"k":"y","n":2}\n')), ("_c.csv", b"")):
        with fsspec.open(f"memory://{tmp_path}/y=7/{name}", "wb") as file:
            file.write(data)  # type: ignore[union-attr]
    for spec in (f"memory://{tmp_path}", f"memory://{tmp_path}/*/[ab]*"):
        history = find_history([spec], Format(key="k"))
        assert [item[:2] for item in read(history.open())] == [
            (b"x", b'{"k":"x","n":1,"y":7}'),
            (b"y", b'{"k":"y","n":2,"y":7}'),
        ]
        assert history.fingerprint() == history.fingerprint() != ""
    with pytest.raises(Usage, match="no such file"):
        find_history([f"memory://{tmp_path}/nope.csv"], Format())
    with pytest.raises(Usage, match="nowhere://"):
        find_history(["nowhere://x/nope.csv"], Format())


@pytest.mark.parametrize(
    ("name", "missing"), [("s3://b/a.csv", "fsspec"), ("a.avro", "fastavro"), ("a.txt.zst", "zstandard")]
)
def test_a_package_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, missing: str
) -> None:
    real = builtins.__import__

    def without(module: str, *more: Any, **named: Any) -> Any:
        if module.split(".")[0] == missing:
            raise ImportError(module)
        return real(module, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    spec = name if "://" in name else str(write(tmp_path / name, b"x"))
    with pytest.raises(Usage, match=f"pip install {missing}"):
        find_history([spec], Format()).open()


ODD = {
    "at": dt.datetime(2013, 1, 1, 10, 0, 0, 250_000, tzinfo=dt.UTC),
    "naive": dt.datetime(2013, 1, 1, 10),
    "day": dt.date(2013, 1, 1),
    "price": decimal.Decimal("1.50"),
    "raw": b"\xff\x00",
    "f": 0.1,
    "big": 2**62,
    "yes": True,
    "none": None,
    "list": [1, 2],
    "inner": {"a": 'é"\n', "b": [{"c": 1}]},
}


@pytest.mark.parametrize("nested", [False, True])
def test_types_of_parquet_become_those_of_json_by_column_and_by_row(tmp_path: Path, nested: bool) -> None:
    row = {**ODD, "bytes": [b"\xff"]} if nested else ODD
    polars.DataFrame([row]).write_parquet(tmp_path / "a.parquet")
    (item,) = read(find_history([str(tmp_path / "a.parquet")], Format(key="price", time="at")).open())
    assert item[0] == b"1.50"
    assert item[2] == 1_357_034_400_250
    assert json.loads(item[1] or b"") == {
        **row,
        "at": "2013-01-01T10:00:00.250000Z",
        "naive": "2013-01-01T10:00:00.000000",
        "day": "2013-01-01",
        "price": "1.50",
        "raw": "/wA=",
        **({"bytes": ["/w=="]} if nested else {}),
    }


def test_bad_rows_are_named_by_their_number(tmp_path: Path) -> None:
    frame = polars.DataFrame({"k": ["a", "b", None, "d"], "t": [1_357_034_400, None, 1_357_034_400, -1]})
    frame.write_parquet(tmp_path / "a.parquet")
    items, source = read_file(tmp_path / "a.parquet", Format(key="k", time="t"))
    assert [item[0] for item in items] == [b"a", None]
    assert [(bad.line, bad.value) for bad in source.bad] == [(2, b'{"k":"b","t":null}'), (4, b'{"k":"d","t":-1}')]


def test_what_is_not_of_its_format_is_bad_from_its_beginning(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.avro", "a.txt.zst", "a.txt.bz2", "a.csv.gz"):
        path = write(tmp_path / name, b"not what it says" * 9)
        history = find_history([str(path)], Format())
        history.check("t")
        source = Reading(history.open())
        assert source.rest() == []
        assert f"{name}:1: " in str(source.bad[0])
    with pytest.raises(Usage, match="unpack it first"):
        find_history([str(write(tmp_path / "a.parquet.gz"))], Format())


def test_a_wrong_column_of_parquet_and_avro_lists_those_there_are(tmp_path: Path) -> None:
    polars.DataFrame({"x": [1]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(Usage, match=r"no such column\n.*columns: x"):
        find_history([str(tmp_path / "a.parquet")], Format(key="z")).check("t")
