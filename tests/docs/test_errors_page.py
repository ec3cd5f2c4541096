"""docs/errors.md names all classes of errors, and the site all messages."""

from __future__ import annotations

import re

import error_reference
from pages import Page


def test_all_classes_of_errors_are_named() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \|", Page("docs/errors.md").text, re.MULTILINE))
    assert error_reference.subclasses() - listed == set()
    assert {"Usage", "BadRecord"} <= error_reference.subclasses()


def test_messages_are_collected_with_their_hints() -> None:
    text = error_reference.error_reference()
    assert "| Kafka client: … | it comes from -X, from KAFKA\\_… in the environment or from a setting" in text
    assert text.count("\n| ") > 100
