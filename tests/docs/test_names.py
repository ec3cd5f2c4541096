"""All names in the documentation exist: links, files, options, metrics, variables, and identifiers of the code."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import click
import pytest
from anabranch.replay.cli.entry import COMMANDS, cli
from pages import PAGES, ROOT, Page

FOLDERS = ("agents/", "topics/", "replay/", "deploy/", "tests/", "docs/")
# Code spans that name something of Kafka, Faust, Python or an operating system.
FOREIGN = {"CompatLevel", "ProcessorContext", "compat_level"}
# Pages that name what other systems have, or what is not there.
NAMES_OF_OTHERS = {"docs/other-systems.md", "docs/faust.md"}

WRITTEN_FROM_THE_CODE = {"docs/settings.md"}  # `test_settings_page.py`
FOR_CONTRIBUTORS = {"docs/architecture.md"}

every_page = pytest.mark.parametrize("page", PAGES)


@every_page
def test_links_lead_somewhere(page: str) -> None:
    assert [link for link in Page(page).links if "://" not in link and not exists(link, page)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/") and page not in FOR_CONTRIBUTORS])
def test_no_link_makes_a_source_file_the_reference(page: str) -> None:
    assert [link for link in Page(page).links if link.endswith(".py") and "://" not in link] == []


@every_page
def test_files_exist(page: str) -> None:
    code = [*Page(page).spans, *(block.text for block in Page(page).blocks if block.language in ("sh", "text"))]
    named = {word.rstrip("/") for text in code for word in text.split() if word.startswith(FOLDERS)}
    assert {path for path in named if not list(ROOT.glob(path))} == set()


@every_page
def test_commands_have_their_options(page: str) -> None:
    wrong = [error for line in command_lines(Page(page)) if (error := refused(line))]
    assert wrong == []


@every_page
def test_options_exist(page: str) -> None:
    named = {option for span in Page(page).spans if span.startswith("-") for option in options_in(span)}
    assert named - all_options() - script_options() == set()


@every_page
def test_metrics_and_variables_exist(page: str) -> None:
    text = Page(page).text
    named = set(re.findall(r"\banabranch_\w+|\bANABRANCH_[A-Z_]*[A-Z]\b|\banabranch-[a-z]+(?:-[a-z]+)*\b", text))
    assert {name for name in named if name not in sources() and not is_composed(name)} == set()


@pytest.mark.parametrize("page", [page for page in PAGES if page not in WRITTEN_FROM_THE_CODE | NAMES_OF_OTHERS])
def test_identifiers_exist(page: str) -> None:
    own = {word for block in Page(page).blocks for word in re.findall(r"\w+", block.text)}
    named = {word for span in Page(page).spans for word in identifiers(span)}
    assert named - words() - own - FOREIGN == set()


def exists(link: str, page: str) -> bool:
    target, _, anchor = link.partition("#")
    path = ((ROOT / page).parent / target if target else ROOT / page).resolve()
    return path.exists() and (not anchor or anchor in Page(str(path.relative_to(ROOT.resolve()))).anchors)


@cache
def sources() -> str:
    """All Python code of the project, and its Makefile."""
    folders = ("agents", "topics", "replay", "tests", "deploy")
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return "\n".join(path.read_text() for path in [*paths, ROOT / "Makefile"] if path.parent != Path(__file__).parent)


@cache
def words() -> set[str]:
    return set(re.findall(r"\w+", sources()))


def is_composed(name: str) -> bool:
    """Return whether the code makes this name of a prefix and a word: `ANABRANCH_PACKED_ROWS`, `anabranch-topic`."""
    prefix, _, last = name.rpartition("_" if "_" in name else "-")
    separator = name[len(prefix)]
    return f'"{prefix}{separator}' in sources() and last.lower() in words()


def identifiers(span: str) -> set[str]:
    """Names of code in a span: what has an underscore in it, capitals inside, or a call's parentheses behind it."""
    if re.search(r"\s--?\w|://", span):
        return set()
    outside_of_strings = re.sub(r"\"[^\"]*\"|'[^']*'", "", span)
    found = re.findall(r"(?<![\w./<-])([A-Za-z_]\w*)(\(?)", outside_of_strings)
    return {name for name, call in found if "_" in name.strip("_") or re.match(r"[A-Z]\w*[a-z]\w*[A-Z]", name) or call}


def command_lines(page: Page) -> list[str]:
    """The `anabranch` commands of a page, in blocks and in spans."""
    lines: list[str] = []
    for block in page.blocks:
        if block.language in ("sh", "console", "text"):
            joined = block.text.replace("\\\n", " ")
            lines += [line.removeprefix("$ ") for line in joined.splitlines()]
    return [line for line in [*lines, *page.spans] if re.match(r"(\w+=\S+ )*anabranch (-|\w)", line)]


def refused(line: str) -> str:
    """Return what is wrong with the options of a command; empty if nothing is."""
    try:
        arguments = shlex.split(line, comments=True)
    except ValueError as exc:
        return f"{line}: {exc}"
    arguments = arguments[next(at for at, word in enumerate(arguments) if word == "anabranch") + 1 :]
    command: click.Command = cli
    known = options_of(cli)
    of_app = "-A" in arguments
    for before, word in zip(["", *arguments], arguments, strict=False):
        if word in ("&&", "|", ">", "&", ";"):
            break
        if of_app and command is cli and before not in ("-A", "-W") and word.isidentifier() and word not in COMMANDS:
            return ""  # a command of the app
        if word.startswith("-") and word != "-" and not re.match(r"-\d", word):
            if word.partition("=")[0] not in known:
                return f"{line}: {command.name} has no {word}"
        elif isinstance(command, click.Group):
            found = command.get_command(click.Context(command), word)
            if found is not None:
                command = found
                known = known | options_of(command)
                if isinstance(command, click.Group):  # `tables` alone is `tables show`
                    known |= {option for each in subcommands(command) for option in options_of(each)}
    return ""


def options_of(command: click.Command) -> set[str]:
    # `get_params` would have the command keep a help option of its own, without `-h`.
    return {"-h", "--help"}.union(*(parameter.opts + parameter.secondary_opts for parameter in command.params))


def subcommands(group: click.Group) -> list[click.Command]:
    context = click.Context(group)
    return [found for name in group.list_commands(context) if (found := group.get_command(context, name))]


@cache
def all_options() -> set[str]:
    found: set[str] = set()
    waiting: list[click.Command] = [cli]
    while waiting:
        command = waiting.pop()
        found |= options_of(command)
        if isinstance(command, click.Group):
            waiting += subcommands(command)
    return found


@cache
def script_options() -> set[str]:
    """Options of the benches' and the faults' scripts."""
    return set(re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", sources()))


def options_in(span: str) -> list[str]:
    return [word.partition("=")[0] for word in re.split(r"[\s,/]+", span) if re.match(r"--?[a-zA-Z]", word)]
