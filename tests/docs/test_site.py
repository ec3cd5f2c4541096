"""`make docs` builds the site, and the API reference has all public names."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import anabranch
import api_reference
import build
import command_reference
import pytest
from anabranch import agents
from pages import ROOT

SECTIONS = [name for names in api_reference.SECTIONS.values() for name in names]


@pytest.mark.timeout(400)  # a few seconds, more on a machine that does much else
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "docs/site/build.py"), str(tmp_path)], capture_output=True, text=True, timeout=360
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    built = {str(path.relative_to(tmp_path / "docs")) for path in (tmp_path / "docs").rglob("*.html")}
    assert {name.replace(".md", ".html") for name in build.pages()} <= built
    index = (tmp_path / "docs" / "api.html").read_text()
    assert [name for name in SECTIONS if f'href="#{name.lower().replace("_", "-")}"' not in index] == []


def page(folder: Path, text: str, name: str = "a/page.md") -> str:
    """Return a page of a site as it is built, with pages `other.md` and `a/near.md` beside it."""
    for each in (name, "other.md", "a/near.md", "code.py"):
        (folder / each).parent.mkdir(exist_ok=True)
        (folder / each).write_text(text if each == name else "")
    names = {(folder / each).resolve(): each for each in (name, "other.md", "a/near.md")}
    return build.site_page(name, (folder / name).resolve(), names)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[o](../other.md#x)", "[o](../other.md#x)"),
        ("[`n`](near.md)", "[`n`](near.md)"),
        ("[code](../code.py)", "code"),
        ("[gone](../gone.md)", "[gone](../gone.md)"),  # Sphinx refuses it
        ("[x](#here) [y](https://example.org/z.md)", "[x](#here) [y](https://example.org/z.md)"),
        ("```text\n[code](../code.py)\n```", "```text\n[code](../code.py)\n```"),
    ],
)
def test_links_lead_into_the_site(tmp_path: Path, written: str, shown: str) -> None:
    assert page(tmp_path, written) == shown


def test_a_page_that_the_index_does_not_name_is_in_the_contents() -> None:
    tree = build.contents("# t\n\n## First\n\n- [A](a.md#x)\n- [A](a.md)\n", ["a.md", "index.md", "new.md"])
    assert ":caption: First\n\na.md\n" in tree
    assert ":caption: More\n\nnew.md\n" in tree


def test_the_help_of_commands_is_that_of_the_terminal() -> None:
    helps = command_reference.command_reference().split("Usage: ")[1:]
    assert [text.split("\n")[0] for text in helps if "-h, --help" not in text] == []


def test_every_public_name_is_in_the_reference() -> None:
    public = {*anabranch.__all__, *agents.__all__} - {"__version__"}
    assert public - set(SECTIONS) == set()


@pytest.mark.parametrize("name", SECTIONS)
def test_names_of_the_reference_are_described(name: str) -> None:
    thing, module = api_reference.named(name)
    assert getattr(sys.modules[module], name) is thing
    members = [getattr(thing, member) for member in api_reference.members(name)]
    assert [each for each in (thing, *members) if not inspect.getdoc(each)] == []
