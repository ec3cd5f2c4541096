"""Errors are one or two lines with a remedy and a non-zero exit code, never a bare traceback."""

from __future__ import annotations

import pytest
from anabranch.topics.admin import Admin, TopicSpec

JOB = "anabranch.agents.jobs.keyed_sum"

APP = """
import anabranch
app = anabranch.App("{app}", topic_partitions=4)
events = app.topic("{app}-events", value_type=str)
counts = app.Table("counts", default=int{more})

@app.agent(events)
async def count(stream):
    async for event in stream:
        counts[event] += 1
"""


def complains(ended, *words: str, code: int) -> None:
    said = ended.stderr
    assert ended.returncode == code, (ended.returncode, said, ended.stdout)
    assert "Traceback" not in said
    assert said.splitlines(), "something was said"
    assert any(line.startswith("error: ") for line in said.splitlines()), said
    for word in words:
        assert word in said


def test_a_missing_file_is_named(shell):
    complains(shell.run("run", JOB, "--input", "nowhere.txt", "--key-before", ","), "nowhere.txt", code=2)
    complains(shell.run("replay", "nowhere.txt", "--to", "t"), "nowhere.txt", code=2)


def test_a_wrong_column_is_named_with_those_there_are(shell, fresh):
    shell.write("people.csv", "name,age\nann,3\n")
    complains(shell.run("replay", "people.csv", "--to", fresh(), "--key", "nmae"), "nmae", "name", "age", code=2)


def test_an_unparsable_line_ends_a_replay_with_file_and_line(shell, fresh):
    shell.write("bad.jsonl", '{"a": 1}\n{"a": \n')
    ended = shell.run("replay", "bad.jsonl", "--to", fresh(), "--key", "a")
    complains(ended, "bad.jsonl:2", code=1)


def test_an_unparsable_line_can_go_to_the_dead_letters(shell, fresh, drain):
    topic = fresh()
    shell.write("bad.jsonl", '{"a": 1}\n{"a": \n{"a": 2}\n')
    ended = shell.run("replay", "bad.jsonl", "--to", topic, "--key", "a", "--on-bad-line", "dead-letter")
    assert ended.returncode == 0, ended.stderr
    assert "bad.jsonl:2" in ended.stdout
    assert len(drain(topic)) == 2
    (letter,) = drain(f"{topic}.dlq")
    headers = dict(letter.headers())
    assert letter.value() == b'{"a": '
    assert b"bad.jsonl:2" in headers["anabranch-source"]


def test_a_line_that_the_agent_cannot_take_goes_to_its_dead_letters(shell, fresh, drain):
    run_id = fresh()
    shell.write("data.txt", "a,1\nb,x\na,2\nc,\n")
    ended = shell.run(
        "run", JOB, "--input", "data.txt", "--key-before", ",", "--output", "result.txt", "--run-id", run_id
    )
    assert ended.returncode == 3, ended.stderr
    assert (shell.folder / "result.txt").read_text() == "a,3\n"
    assert "2 dead letters" in ended.stdout
    letters = drain(f"keyed-sum-run-{run_id}-lines.dlq")
    assert sorted(letter.value() for letter in letters) == [b"b,x", b"c,"]
    headers = dict(letters[0].headers())
    assert headers["anabranch-reason"] == b"agent"
    assert headers["anabranch-agent"] == b"total"
    assert b"ValueError" in headers["anabranch-error"]


def test_an_empty_input_has_an_empty_result(shell, fresh):
    shell.write("mine.py", APP.format(app=fresh("app"), more="") + "other = app.Table('other', default=int)\n")
    shell.write("empty.txt", "")
    options = ("--input", "empty.txt", "--table", "counts", "--output", "result.csv", "--digests")
    ended = shell.run("run", "mine", *options)
    assert ended.returncode == 0, ended.stderr
    assert (shell.folder / "result.csv").read_text() == "key,value\n"


def test_an_unreachable_broker_is_named(shell):
    shell.write("data.txt", "a,1\n")
    nowhere = "127.0.0.1:1"
    complains(shell.run("replay", "data.txt", "--to", "t", "-b", nowhere), nowhere, "--bootstrap-server", code=1)
    complains(shell.run("-A", JOB, "worker", "-b", nowhere), nowhere, "--bootstrap-server", code=1)
    complains(shell.run("run", JOB, "--input", "data.txt", "-b", nowhere), nowhere, "--bootstrap-server", code=1)


def test_a_topic_with_other_partitions_than_the_changelog_is_refused(shell, fresh, broker):
    app = fresh("app")
    shell.write("mine.py", APP.format(app=app, more=""))
    Admin(broker).create([TopicSpec(f"{app}-events", 3), TopicSpec(f"{app}-counts-changelog", 5)])
    complains(shell.run("-A", "mine", "worker", "--without-web"), "counts", "5 partitions", "has 3", code=2)


def test_an_unknown_table_is_refused_with_those_there_are(shell):
    complains(shell.run("-A", JOB, "tables", "nope"), "nope", "totals", code=2)
    shell.write("data.txt", "a,1\n")
    ended = shell.run("run", JOB, "--input", "data.txt", "--table", "nope", "--output", "r.txt")
    complains(ended, "nope", "totals", code=2)


def test_an_unknown_topic_and_an_unknown_ending_are_refused_before_any_work(shell):
    shell.write("data.txt", "a,1\n")
    complains(shell.run("run", JOB, "--input", "lins=data.txt"), "lins", "lines", code=2)
    complains(shell.run("run", JOB, "--input", "data.txt", "--output", "r.xls"), ".xls", ".csv", code=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["no module named mine"]),
        ("x = 1\n", ["no app", "anabranch.App"]),
        ("import anabranch\nimport not_there_at_all\n", ["not_there_at_all"]),
        ("import anabranch\napp = anabranch.App('a')\nboom()\n", ["NameError", "mine.py:3"]),
        ("import anabranch\napp = anabranch.App('a')\nt = app.Table('t', wndow=3)\n", ["wndow"]),
    ],
)
def test_a_module_that_is_no_app_is_explained(shell, text, words):
    if text is not None:
        shell.write("mine.py", text)
    complains(shell.run("-A", "mine", "worker"), *words, code=2)


def test_a_command_without_an_app_says_how_to_name_one(shell):
    complains(shell.run("worker"), "-A", code=2)


def test_help_has_examples_everywhere(shell):
    for command in ("worker", "run", "replay", "tables", "broker"):
        shown = shell.run(command, "--help")
        assert shown.returncode == 0
        assert "Examples:" in shown.stdout, command
