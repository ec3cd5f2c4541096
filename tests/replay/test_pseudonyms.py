"""Pseudonyms in replays: fields, keys and headers are replaced; a record that would tell the person is a bad line."""

from __future__ import annotations

import hmac
import json
from typing import Any

import pytest
from anabranch.replay.pipeline.pipeline import Pipeline
from anabranch.replay.pipeline.pseudonymize import Pseudonyms
from anabranch.replay.sources.field_expression import expression
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.source_record import BadLine
from anabranch.topics.errors import Usage

KEY = "a key for tests, 24 bytes"


def of(text: str, key: str = KEY) -> str:
    return hmac.new(key.encode(), text.encode(), "sha256").hexdigest()[:32]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    from anabranch.topics import pseudonyms

    pseudonyms._key.cache_clear()
    monkeypatch.setenv("PSEUDONYM_KEY", KEY)


def replaced(*fields: str, key: str | None, value: Any, headers: Any = None) -> tuple[Any, str]:
    bad: list[BadLine] = []
    encoded = None if value is None else json.dumps(value).encode() if not isinstance(value, bytes) else value
    item = (None if key is None else key.encode(), encoded, 7, headers, 3)
    found = Pseudonyms(fields, "env:PSEUDONYM_KEY").step()([item], bad)
    if bad:
        return None, bad[0].reason
    ((new_key, new_value, _, new_headers, partition),) = found
    return (new_key, new_value and json.loads(new_value), new_headers, partition), ""


def test_fields_keys_and_headers_are_replaced() -> None:
    value = {"email": "ann@b.c", "n": 1, "user": {"phone": 123, "tags": ["x"]}, "all": [{"email": None}]}
    fields = ("email", "user.phone", "user.tags")
    found, _ = replaced(*fields, key="ann@b.c", value=value, headers=[("who", b"ann@b.c"), ("n", b"1")])
    user = {"phone": of("123"), "tags": [of("x")]}
    expected = {"email": of("ann@b.c"), "n": 1, "user": user, "all": [{"email": None}]}
    pseudonym = of("ann@b.c").encode()
    assert found == (pseudonym, expected, [("who", pseudonym), ("n", b"1")], None), "the partition follows the new key"
    assert replaced("email", key="k", value={"email": "ann"})[0] == (b"k", {"email": of("ann")}, None, 3)
    assert replaced("$key", key="ann", value=None)[0] == (of("ann").encode(), None, None, None)


@pytest.mark.parametrize(
    ("key", "value", "headers", "reason"),
    [
        ("k", b"no json", None, "JSON"),
        ("k", [1], None, "not a JSON object"),
        ("k", {"email": 1.5}, None, "not of float"),
        ("k", {"email": {"a": 1}}, None, "not of dict"),
        ("ann@b.c/2013", {"email": "ann@b.c"}, None, "its key or a header"),
        ("k", {"email": "ann@b.c"}, [("h", b"to ann@b.c")], "its key or a header"),
        ("ann@b.c", None, None, "$key"),
    ],
)
def test_what_would_still_tell_the_person_is_a_bad_line(key, value, headers, reason) -> None:
    assert reason in replaced("email", key=key, value=value, headers=headers)[1]


def test_bad_lines_have_the_numbers_of_their_records() -> None:
    step, bad = Pseudonyms(("email",), "env:PSEUDONYM_KEY").step(), list[BadLine]()
    good, wrong = ((b"k", value, 7, None, None) for value in (b'{"email":"ann"}', b"no json"))
    assert len(step([good, wrong, wrong], bad)) + len(step([good, wrong], bad)) == 2
    assert [line.position for line in bad] == ["record:2", "record:3", "record:5"]


def test_a_replay_has_pseudonyms_for_its_keys_too(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"email":"ann@b.c","n":1}\n{"email":"bob@b.c","n":2}\n{"email":true}\n')
    history = find_history([str(tmp_path / "a.jsonl")], Format(key="email"))
    pipeline = Pipeline(pseudonyms=Pseudonyms.parsed(["email"], "env:PSEUDONYM_KEY"))
    source = pipeline.open(history)
    batch = source.next_batch()
    assert [record[0] for record in batch.records] == [of("ann@b.c").encode(), of("bob@b.c").encode()]
    assert b"@" not in b"".join(record[1] or b"" for record in batch.records)
    assert len(batch.bad) == 1
    source.close()
    assert Pipeline().run_id(history, "t") != pipeline.run_id(history, "t")


def test_the_run_of_another_key_is_another_run_and_tells_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", KEY + "!")
    one, two = (Pseudonyms(("email",), name).identity() for name in ("env:PSEUDONYM_KEY", "env:OTHER_KEY"))
    assert one != two
    assert KEY not in json.dumps(one)


def test_expressions_of_commands_have_pseudonyms() -> None:
    assert expression('pseudonym(email, "env:PSEUDONYM_KEY")')({"email": "ann"}) == of("ann")
    assert (
        expression('pseudonym(email, "env:PSEUDONYM_KEY") + "-" + str(n)')({"email": "ann", "n": 1}) == of("ann") + "-1"
    )
    assert expression('pseudonym(email, "env:PSEUDONYM_KEY")')({"email": None}) is None
    for wrong in ("pseudonym(email)", 'pseudonym(email, "the key itself")', "pseudonym(email, key)"):
        with pytest.raises(Usage) as refused:
            expression(wrong)
        assert "the key itself" not in str(refused.value).replace(wrong, "")


@pytest.mark.parametrize(("name", "content"), [("env:NO_SUCH_KEY", None), ("file:key", "short\n")])
def test_a_key_that_cannot_be_read_or_is_short_is_refused(tmp_path, monkeypatch, name, content) -> None:
    monkeypatch.chdir(tmp_path)
    if content:
        (tmp_path / "key").write_text(content)
    with pytest.raises(Usage):
        Pseudonyms(("email",), name).identity()
    with pytest.raises(Usage):
        Pseudonyms.parsed(["email"], "plain text of a key")
    with pytest.raises(Usage):
        Pseudonyms.parsed(["email"], None)


def test_a_key_in_a_file_is_that_in_the_environment(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text(KEY + "\n")
    assert expression('pseudonym(email, "file:key")')({"email": "ann"}) == of("ann")
