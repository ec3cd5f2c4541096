"""The examples of the documentation run as printed, and print what the pages quote; `play.py` has the rules.

All pages share a broker, so apps and topics get a suffix of their own, and their commands are forks: see
`fork_server.py`. `test_first_steps.py` plays the pages that a new user reads first, with their own names and brokers.
"""

from __future__ import annotations

import os
import re
import sys
import uuid
from pathlib import Path

import pytest
from anabranch.topics.cluster import Cluster
from fork_server import ForkServer
from pages import CTRL_C, PAGES, Page
from play import Play, matches
from test_first_steps import FIRST_STEPS

PLAYED = {"python", "sh", "console"}


def played(page: str) -> bool:
    return page not in FIRST_STEPS and any(block.language in PLAYED for block in Page(page).blocks)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", [page for page in PAGES if played(page)])
def test_the_examples_of_a_page_run_as_printed(page: str, tmp_path: Path, broker: Cluster, forks: ForkServer) -> None:
    programs = [str(forks.program.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "PATH": os.pathsep.join(programs),
        "ANABRANCH_TEST_BROKER": broker.bootstrap_servers,
        # Loaded as its entry point loads it, which an editable install from before does not have.
        "PYTEST_PLUGINS": "anabranch.replay.testing.plugin",
    }
    with Play(Page(page), tmp_path, environment, suffix=f"x{uuid.uuid4().hex[:6]}") as play:
        for block in play.page.blocks:
            play.run(block)


# Blocks with commands that are not played: page and first word -> why.
NOT_PLAYED = {
    ("CONTRIBUTING.md", "git"): "CI does it",
    ("CONTRIBUTING.md", "ANABRANCH_TEST_BROKER=memory"): "runs tests",
    ("deploy/README.md", "docker"): "needs a Docker engine",
    ("docs/operating.md", "anabranch"): "need a cluster with TLS: `tests/integration/test_tls.py`",
    ("docs/time.md", "$"): "shows a moment of a running stream",
}
_COMMAND = re.compile(
    r"^(\$ .*|(?:\w+=\S+ )*(?:anabranch|make|pip|python3?|pytest|docker|git|source) .*)$", re.MULTILINE
)


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_played_or_it_is_said_why_not(page: str) -> None:
    others = [block for block in Page(page).blocks if block.language not in {*PLAYED, "mermaid", CTRL_C}]
    commands = [block.text.split(maxsplit=1)[0] for block in others if _COMMAND.search(block.text)]
    assert [word for word in commands if (page, word) not in NOT_PLAYED] == []


@pytest.mark.parametrize(
    ("quoted", "output"),
    [
        ("processed 3 records in 4.1 s", "processed 3 records in 12 s"),
        ("3 records   run 14dbffa5", "3 records   run 0be491e5"),
        ("a …", "a b c"),
        ("first\n…\nlast", "first\n1\n2\nlast"),
        ("first\n…\nlast", "first\nlast"),
        ("┏━━━━━┓", "┏━━━━━━━━┓"),
        ("", "anything"),
    ],
)
def test_quoted_output_may_differ_in_what_varies(quoted: str, output: str) -> None:
    assert matches(quoted, output)


@pytest.mark.parametrize(
    ("quoted", "output"),
    [("ann 8", "ann 9"), ("first", "first\nsecond"), ("first\n…\nlast", "first\n1"), ("3 keys", "4 keys")],
)
def test_quoted_output_may_not_differ_otherwise(quoted: str, output: str) -> None:
    assert not matches(quoted, output)
