"""Archives with pseudonyms: no record tells the person, none is left out, and all have one key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from anabranch.replay.archive import ArchiveHistory, Archiver
from anabranch.replay.archive.manifest import read_manifest
from anabranch.replay.pipeline.pseudonymize import Pseudonyms
from anabranch.replay.sources.format import Format
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Stop, Usage
from anabranch.topics.producer import TransactionalProducer
from anabranch.topics.pseudonyms import pseudonym_of
from click.testing import CliRunner

ANN = "ann@example.org"
EMAIL = Pseudonyms(("email",), "env:TEST_PSEUDONYM_KEY")
ALIAS = "0123456789abcdef-a-secret"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PSEUDONYM_KEY", ALIAS)
    monkeypatch.setenv("OTHER_PSEUDONYM_KEY", ALIAS[::-1])


@pytest.fixture
def topic(broker: Cluster, fresh: Callable[..., str]) -> str:
    name = fresh("orders")
    Admin(broker).create([TopicSpec(name, 2)])
    return name


def send(broker: Cluster, topic: str, key: str | None, value: object, headers: list[tuple[str, bytes]] | None = None):
    producer = TransactionalProducer(broker, f"{topic}-writer")
    producer.open()
    producer.begin()
    data = None if value is None else json.dumps(value).encode()
    producer.produce(topic, data, None if key is None else key.encode(), 1, headers=headers)
    producer.flush()
    producer.commit()
    producer.close()


def records(folder: Path) -> list[tuple[str | None, object, int | None]]:
    """Key, value and partition of what a replay of the archive sends."""
    found = []
    source = ArchiveHistory(folder, Format()).open()
    while not source.ended:
        for key, value, _, _, partition in source.next_batch().records:
            found.append((key and key.decode(), json.loads(value), partition))
    return found


@pytest.mark.parametrize("encoding", ["parquet", "jsonl"])
def test_no_file_of_the_archive_holds_the_field(broker: Cluster, topic: str, tmp_path: Path, encoding) -> None:
    send(broker, topic, ANN, {"email": ANN, "n": 1, "by": {"email": ANN}}, [("user", ANN.encode()), ("v", b"1")])
    send(broker, topic, "7", {"email": None, "n": 2})
    report = Archiver(broker, topic, tmp_path, encoding=encoding, pseudonyms=EMAIL).archive()
    assert report.records == 2
    alias = pseudonym_of(ANN, EMAIL.key)
    assert records(tmp_path) == [
        (alias, {"email": alias, "n": 1, "by": {"email": alias}}, None),  # placed by its key, which is another now
        ("7", {"email": None, "n": 2}, None),
    ]
    everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"example.org" not in everything and ALIAS.encode() not in everything


def test_an_archive_keeps_its_fields_and_their_key(broker: Cluster, topic: str, tmp_path: Path) -> None:
    send(broker, topic, "7", {"email": ANN})
    Archiver(broker, topic, tmp_path, pseudonyms=EMAIL).archive()
    for other, words in (
        (None, r"archive with pseudonyms of \['email'\], not without pseudonyms"),
        (Pseudonyms(("email", "name"), EMAIL.key), r"not with pseudonyms of \['email', 'name'\]"),
        (Pseudonyms(("email",), "env:OTHER_PSEUDONYM_KEY"), "the key is another"),
    ):
        with pytest.raises(Usage, match=words):
            Archiver(broker, topic, tmp_path, pseudonyms=other).archive()
    send(broker, topic, "8", {"email": ANN})
    assert Archiver(broker, topic, tmp_path, pseudonyms=EMAIL).archive().records == 1


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("7", [ANN], "not a JSON object"),
        (f"mail {ANN}", {"email": ANN}, "its key or a header holds the text"),
        (ANN, None, "a record without a value"),
        ("7", {"email": {"at": ANN}}, "email"),
    ],
)
def test_a_record_that_would_tell_the_person_ends_it_and_is_in_no_file(
    broker: Cluster, topic: str, tmp_path: Path, key: str, value: object, words: str
) -> None:
    send(broker, topic, "7", {"email": ANN, "n": 1})
    send(broker, topic, key, value)
    with pytest.raises(Stop, match=rf"--pseudonym: {topic}\[1\]@2: .*{words}") as stopped:
        Archiver(broker, topic, tmp_path, pseudonyms=EMAIL).archive()
    assert ANN not in str(stopped.value)
    assert b"example.org" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    manifest = read_manifest(tmp_path)
    assert manifest is not None and manifest.records == 0


def test_the_command_has_both_options_or_none(tmp_path: Path) -> None:
    from anabranch.replay.cli.archive import archive

    ended = CliRunner().invoke(archive, ["orders", "--to", str(tmp_path), "--pseudonym", "email", "-b", "127.0.0.1:1"])
    assert isinstance(ended.exception, Usage)
    assert "--pseudonym and --pseudonym-key go together" in str(ended.exception)
