"""`anabranch tables backup` and `restore` by command."""

from __future__ import annotations

import json

from anabranch.replay.cli.entry import cli
from click.testing import CliRunner

JOB = """
from anabranch import App

app = App("tally")
totals = app.Table("totals", default=int)

@app.agent(app.topic("numbers", partitions=2))
async def add(stream):
    async for line in stream:
        totals[line["user"]] += line["n"]
"""


def test_tables_are_shown_backed_up_and_brought_back_to_a_new_changelog(shell, fresh, broker):
    shell.write("tally.py", JOB)
    lines = [{"user": "a", "n": 1}, {"user": "b", "n": 2}, {"user": "a", "n": 3}]
    shell.write("numbers.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    old, new = fresh(), fresh()
    ran = shell.run(*("run", "tally", "--input", "numbers.jsonl", "--key", "user", "-o", "out.txt", "--run-id", old))
    assert ran.returncode == 0, ran.stderr

    backed_up = shell.run("-A", "tally", "tables", "backup", "--to", "monday", ANABRANCH_RUN=old)
    assert backed_up.returncode == 0, backed_up.stderr
    assert "totals: 2 keys in 2 partitions" in backed_up.stdout
    manifest = json.loads((shell.folder / "monday" / "manifest.json").read_text())
    assert (manifest["app"], manifest["consistent"]) == (f"tally-run-{old}", True)
    assert {offset["topic"] for offset in manifest["offsets"]} == {f"tally-run-{old}-numbers"}

    command = ("-A", "tally", "tables", "restore", "--from", "monday")
    done = shell.run(*command, "--other-app", ANABRANCH_RUN=new)
    assert done.returncode == 0, done.stderr
    assert "totals: fill its changelog" in done.stdout
    assert "--start" in done.stderr
    shown = shell.run("-A", "tally", "tables", "totals", "-J", "--run-id", new)
    assert [json.loads(line) for line in shown.stdout.splitlines()] == [
        {"key": "a", "value": 4},
        {"key": "b", "value": 2},
    ]
    again = shell.run(*command, "--other-app", ANABRANCH_RUN=new)
    assert again.returncode == 2
    assert "has 2 keys" in again.stderr


def test_the_words_of_tables_have_help_with_examples():
    for words in (["tables"], ["tables", "show"], ["tables", "backup"], ["tables", "restore"]):
        shown = CliRunner().invoke(cli, [*words, "--help"])
        assert shown.exit_code == 0
        assert "Examples:" in shown.output
    assert "tables backup --help" in CliRunner().invoke(cli, ["tables", "--help"]).output
