"""Examples in docstrings give the printed results; `tests/docs/` tests those of the documentation."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WITH_EXAMPLES = sorted(
    str(path.relative_to(ROOT))
    for room in ("topics", "agents", "replay")
    for path in (ROOT / room).rglob("*.py")
    if ">>>" in path.read_text()
)


@pytest.mark.parametrize("path", WITH_EXAMPLES)
def test_the_examples_of_a_module_hold(path: str) -> None:
    module = importlib.import_module("anabranch." + path.removesuffix(".py").replace("/", "."))
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed
