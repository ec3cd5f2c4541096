"""Examples in docstrings, and the README's first agent, do what they say."""

from __future__ import annotations

import doctest
import importlib
import re
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


def test_the_first_agent_of_the_readme_is_an_app() -> None:
    code = re.search(r"```python\n# shop\.py\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code
    names: dict[str, object] = {"__name__": "shop"}
    exec(compile(code[1], "shop.py", "exec"), names)  # our own README
    assert "totals" in names


def test_the_flows_of_their_page_are_flows() -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs/flows.md").read_text(), re.DOTALL)
    names: dict[str, object] = {"__name__": "flows"}
    exec(compile("\n".join(code), "flows.md", "exec"), names)  # our own page
    assert {"totals", "revenue", "spent", "by_user", "by_item"} <= names.keys()
