"""Private fields are hidden wherever they stand in a value or a key; texts that may quote them, too."""

from __future__ import annotations

import json
import logging
from typing import Any

import msgspec
import pytest
from anabranch import App, Count, Tumbling, col, pseudonym
from anabranch.agents.runtime import runtime_of
from anabranch.replay.cli import logs
from anabranch.replay.table_reader import Snapshot
from anabranch.topics.errors import BadRecord, Stop, Usage, described, formatted_traceback
from anabranch.topics.private_fields import KEY, VALUE, PrivateFields, PrivateNames
from anabranch.topics.private_registry import PRIVATE_TOPIC, fields_of_topics, publish
from anabranch.topics.private_texts import HIDDEN_TEXT, hide_texts, show

FIELDS = PrivateFields(frozenset({"email", "user.phone"}), declared=True)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"email": "a@b", "n": 1}, {"email": "***", "n": 1}),
        ({"user": {"phone": 1, "n": 2}, "phone": 3}, {"user": {"phone": "***", "n": 2}, "phone": 3}),
        ({"x": [{"email": {"a": 1}}, {"n": 1}]}, {"x": [{"email": "***"}, {"n": 1}]}),
        ({"user": [{"phone": "1"}]}, {"user": [{"phone": "***"}]}),
        ({"user.phone": "1"}, {"user.phone": "***"}),
        ({"email": None}, {"email": "***"}),
        ({"email": "ann@b", "note": "to ann@b, twice", "n": 1}, {"email": "***", "note": "***", "n": 1}),
        ({"email": "a", "note": "an a in it", "other": "a"}, {"email": "***", "note": "an a in it", "other": "***"}),
        ({"email": 12345, "other": 12345, "flag": True}, {"email": "***", "other": "***", "flag": True}),
        ("a@b", "***"),
        (None, None),
        ([], []),
    ],
)  # fmt: skip
def test_fields_are_hidden_at_any_depth(value: Any, shown: Any) -> None:
    assert FIELDS.value(value) == shown
    hidden = FIELDS.value_bytes(json.dumps(value).encode())
    assert hidden is not None
    assert json.loads(hidden) == shown


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        (b"a@b.c", b'{"email":"a@b.c"}', b"***"),
        (b"2013/a@b.c", b'{"email":"a@b.c"}', b"***"),
        (b"k", b'{"email":"a@b.c"}', b"k"),
        (b'{"email":1,"n":2}', None, b'{"email":"***","n":2}'),
        (None, b"{}", None),
    ],
)
def test_keys_with_private_texts_are_hidden(key: bytes | None, value: bytes | None, shown: bytes | None) -> None:
    assert FIELDS.key_bytes(key, value) == shown


def test_what_is_no_json_is_hidden_where_the_topic_declares_fields() -> None:
    assert FIELDS.value_bytes(b"\xff ann@b") == b"*** (7 bytes that are not JSON)"
    assert PrivateFields(FIELDS.names).value_bytes(b"plain text") == b"plain text"
    assert PrivateFields(frozenset({KEY})).value_bytes(b"7") == b"7"
    assert PrivateFields(frozenset({VALUE})).value_bytes(b'{"n":1}') == b"***"
    deep = b'{"a":' * 90 + b'{"email":"ann"}' + b"}" * 90
    assert b"ann" not in (FIELDS.value_bytes(deep) or b"")


def test_all_is_shown_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_SHOW_PRIVATE", "")
    show()
    hide_texts()
    assert FIELDS.value({"email": 1}) == {"email": 1}
    assert described(ValueError("ann")) == "ValueError: ann"


class Person(msgspec.Struct, rename="camel"):
    phone_nr: str


class Order(msgspec.Struct):
    email: str
    person: Person


def test_names_are_those_of_the_program_and_of_json_and_misspelled_ones_are_refused() -> None:
    app = App("shop")
    app.topic("orders", value_type=Order, private=["email", "person.phone_nr"])
    app.Table("last", value_type=Order)
    app.Table("counts", default=int, private=["$key"])
    private = runtime_of(app).private
    shown = private.of("orders").value(Order("ann@b", Person("123")))
    assert shown == {"email": "***", "person": {"phoneNr": "***"}}
    assert private.of("shop-last-changelog").value(Order("ann@b", Person("123"))) == shown
    counts = private.of("shop-counts-changelog")
    assert (counts.key("ann"), counts.value(3)) == ("***", 3)
    for topic in ("orders.dlq", "shop-run-1f-orders", "shop-run-my-run-orders", "shop-total-orders-retry"):
        assert private.of(topic).declared, topic
    for names in (["emial"], ["person.phone"], ["$keys"], "email", [""]):
        with pytest.raises(Usage):
            app.topic("others", value_type=Order, private=names)


def test_keys_of_flows_that_are_private_fields_are_hidden() -> None:
    app = App("shop")
    orders = app.topic("orders", private=["email"])
    orders.key_by("email").aggregate("a", n=Count())
    orders.key_by(col("email").lower()).aggregate("b", n=Count())
    orders.key_by(pseudonym("email", key="env:K")).aggregate("c", n=Count())
    private = runtime_of(app).private
    hidden = {name: KEY in private.of(f"shop-{name}-changelog").names for name in "abc"}
    assert hidden == {"a": True, "b": True, "c": False}
    assert private.of("shop-a-repartition").value_bytes(b'["ann",{"n":1}]') == b"***"


def test_tables_of_windows_hide_what_other_tables_hide() -> None:
    app = App("shop")
    orders = app.topic("orders", private=["email"])
    orders.key_by("email").window(Tumbling("5m"), grace="0s").aggregate("a", n=Count())
    orders.key_by("user").window(Tumbling("5m"), grace="0s").reduce(max, "orders")
    tables = {table.name: table for table in runtime_of(app).tables}

    def shown(name: str, value: bytes) -> list[list[object]]:
        there = Snapshot(tables[name], [{tables[name].key_codec.keep(("ann", 0, 300_000)): value}])
        return there.shown(there.rows[1])

    fields = b'{"email":"ann@b","n":1}'
    assert shown("a", fields) == [["***", 0, 300_000, "***", 1]]
    assert shown("orders", fields) == [["ann", 0, 300_000, "***", 1]]
    assert shown("orders", b"7") == [["ann", 0, 300_000, "***"]], "a value without fields, of a topic with some"


def test_texts_of_errors_are_hidden_unless_they_hold_no_data() -> None:
    hide_texts()
    with pytest.raises(msgspec.ValidationError) as wrong:
        msgspec.json.decode(b'{"email":1,"person":{}}', type=Order)
    assert described(wrong.value) == "ValidationError: Expected `str`, got `int` - at `$.email`"
    assert described(msgspec.ValidationError("Invalid enum value 'ann'")) == f"ValidationError: {HIDDEN_TEXT}"
    assert described(msgspec.ValidationError("Expected `str` ann")) == f"ValidationError: {HIDDEN_TEXT}"
    assert described(BadRecord("a record of 3 bytes")) == "BadRecord: a record of 3 bytes"
    assert described(FileNotFoundError(2, "ann", "x")) == "FileNotFoundError: [Errno 2] No such file or directory"
    assert described(ValueError("ann")) == f"ValueError: {HIDDEN_TEXT}"
    assert described(ValueError("ann"), whole=True) == "ValueError: ann"
    with pytest.raises(Stop) as raised:  # by code that is not ours
        raise Stop("ann")
    assert described(raised.value) == f"Stop: {HIDDEN_TEXT}"


def test_tracebacks_and_logs_hold_no_text_of_any_error() -> None:
    hide_texts()
    name = "".join(("a", "n", "n"))  # the lines of this function are in the tracebacks
    for cause in (ValueError(name), SyntaxError(name, (name, 1, 1, f"{name} = 1@"))):
        try:
            try:
                raise cause
            except Exception as exc:
                exc.add_note(name)
                raise ExceptionGroup(name, [KeyError(name)]) from exc
        except ExceptionGroup as exc:
            error = exc
        texts = [formatted_traceback(error)]
        for formatter in (logs.TextFormatter("%(message)s"), logs.JsonFormatter()):
            info = (type(error), error, error.__traceback__)
            texts.append(formatter.format(logging.LogRecord("x", 40, "f", 1, "no: %r", (ValueError(name),), info)))
        for text in texts:
            assert {
                error for error in ("ExceptionGroup", "KeyError", type(cause).__name__) if error not in text
            } == set()
            assert name not in text
    failed = ValueError(name)  # as asyncio logs it
    record = logging.LogRecord("asyncio", 40, "f", 1, f"exception={failed!r}", (), (ValueError, failed, None))
    assert name not in logs.TextFormatter("%(message)s").format(record)


def test_apps_publish_their_fields_for_commands_that_do_not_load_them(broker, fresh) -> None:
    from anabranch.topics.admin import Admin

    admin, app, topic = Admin(broker), fresh("shop"), fresh("orders")
    names = PrivateNames(app)
    publish(broker, admin, names, may_create=True)
    assert not fields_of_topics(broker, [topic])[topic]
    names.declare(topic, ["email"])
    publish(broker, admin, names, may_create=True)
    publish(broker, admin, names, may_create=True)
    dead, changelog, other = f"{topic}.dlq", f"{app}-totals-changelog", fresh("other")
    assert fields_of_topics(broker, [dead, changelog, other]) == {
        dead: PrivateFields(frozenset({"email"}), declared=True),
        changelog: PrivateFields(frozenset({"email"})),
        other: PrivateFields(),
    }
    written = admin.spans([(PRIVATE_TOPIC, 0)])[1]
    publish(broker, admin, names, may_create=True)
    assert admin.spans([(PRIVATE_TOPIC, 0)])[1] == written, "it is not written again"
