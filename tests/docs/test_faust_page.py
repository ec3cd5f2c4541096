"""Features of Faust that docs/faust.md lists as missing are refused, and not ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Union

import faust
import pytest
from anabranch import App
from anabranch.topics.errors import Usage
from pages import Page


class Order(faust.Record):
    user: str


class Table(faust.Table): ...


def loud(app: App) -> None:
    app.on_produce_message.connect(lambda *_, **__: None)
    app.finalize()


MISSING: dict[str, tuple[type[BaseException], Callable[[App], object]]] = {
    "SetGlobalTable": (Usage, lambda app: app.SetGlobalTable("t")),
    "recovery_buffer_size": (Usage, lambda app: app.Table("t", recovery_buffer_size=1)),
    "standby_buffer_size": (Usage, lambda app: app.Table("t", standby_buffer_size=1)),
    "changelog_topic": (Usage, lambda app: app.Table("t", changelog_topic=app.topic("x"))),
    "on_changelog_event": (Usage, lambda app: app.Table("t", on_changelog_event=print)),
    "schema": (Usage, lambda app: app.Table("t", schema=faust.Schema())),
    "use_partitioner": (Usage, lambda app: app.Table("t", use_partitioner=True)),
    "as_ansitable": (AttributeError, lambda app: app.Table("t").as_ansitable()),
    "on_recover": (AttributeError, lambda app: app.Table("t").on_recover),
    "reset_state": (AttributeError, lambda app: app.Table("t").reset_state),
    "acks=False": (Usage, lambda app: app.topic("x", acks=False)),
    "a union of a Faust": (Usage, lambda app: app.topic("x", value_type=Union[Order, str])),  # noqa: UP007
    "app.topic(pattern=…)": (Usage, lambda app: app.topic(pattern="a.*")),
    "on_produce_message": (Usage, loud),
    "App(Agent=…)": (Usage, lambda app: App("shop", Agent=faust.Agent)),
    "Stream=": (Usage, lambda app: App("shop", Stream=faust.Stream)),
    "Topic=": (Usage, lambda app: App("shop", Topic=faust.Topic)),
    "Table=": (Usage, lambda app: App("shop", Table=Table).finalize()),
}


@pytest.mark.parametrize("feature", MISSING)
def test_what_is_missing_is_refused(feature: str) -> None:
    kind, use = MISSING[feature]
    missing = Page("docs/faust.md").text.partition("## What is missing")[2].partition("\n## ")[0]
    assert feature in missing
    with pytest.raises(kind):
        use(App("shop"))


def test_a_table_is_no_faust_table() -> None:
    assert not isinstance(App("shop").Table("t"), faust.Table)
