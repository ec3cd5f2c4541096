"""docs/settings.md is what the code says."""

from __future__ import annotations

from dataclasses import replace

import setting_texts
import settings_reference
from anabranch.agents.declarations import AppOptions
from pages import ROOT


def test_the_page_is_that_of_the_code() -> None:
    page = (ROOT / "docs/settings.md").read_text()
    assert page == settings_reference.settings_page(), "write it anew: python docs/site/settings_reference.py"


def test_all_settings_of_an_app_have_a_text() -> None:
    described = [name for group in setting_texts.GROUPS.values() for name in group]
    assert sorted(described) == sorted(AppOptions.__annotations__)


def test_defaults_come_from_the_engine_where_faust_has_others() -> None:
    page = settings_reference.settings_page()
    assert "| `broker_session_timeout` | `Seconds` | `10` | s |" in page
    assert "| `producer_linger` | `Seconds` | `0.005` | s |" in page
    assert "| `topic_partitions` | `int` | `4` |" in page


def test_the_page_follows_the_code(monkeypatch) -> None:
    changed = replace(settings_reference.EngineSettings(), session_timeout_ms=12_000)
    monkeypatch.setattr(settings_reference, "EngineSettings", lambda: changed)
    assert settings_reference._app_default(settings_reference.App("shop"), "broker_session_timeout") == "12"
