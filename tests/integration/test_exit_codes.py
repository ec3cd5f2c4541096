"""A bounded run whose records failed writes its result and ends with exit code 3."""

from __future__ import annotations

import pytest
from anabranch.replay.runs.failure_counts import Allowance
from anabranch.topics.errors import Usage

# `lax` skips 10, `strict` writes a letter of 100; both take the others.
APP = """
import os
from anabranch import App
app = App("{app}", topic_partitions=1)
orders = app.topic("orders", value_type=int)
total = app.Table("total", default=int)

@app.agent(orders, name="lax", on_failure="skip")
async def lax(stream):
    async for n in stream:
        if n == 10:
            raise ValueError("ten [/oops]")
        total["lax"] += n

@app.agent(orders, name="strict")
async def strict(stream):
    async for n in stream:
        if n == 100 and "MENDED" not in os.environ:
            raise ValueError("a hundred")
        total["strict"] += n
"""


def test_a_run_whose_records_failed_ends_with_3_and_says_which_also_when_it_is_started_again(shell, fresh):
    app, run_id = fresh("shop"), fresh()
    shell.write("mine.py", APP.format(app=app))
    shell.write("n.jsonl", "1\n10\n100\nx\n1000\n")
    asked = ["run", "mine", "--input", "n.jsonl", "--run-id", run_id, "--on-bad-line", "skip", "-o", "r.txt"]
    topic = f"{app}-run-{run_id}-orders"
    for command, code in (
        (asked, 3),
        (asked, 3),
        ([*asked, "--allow-failures", "2"], 3),
        ([*asked, "--allow-failures", "60%"], 0),
    ):
        ran = shell.run(*command)
        assert ran.returncode == code, ran.stdout + ran.stderr
        said = " ".join(ran.stdout.split())
        assert "exactly once" not in said
        assert "3 failures, excluded from the result" in said
        assert f"1 bad lines skipped in {topic}" in said
        assert f"1 dead letters by agent strict in {topic}: ValueError: a hundred at mine.py:19 in strict" in said
        assert f"1 skipped by agent lax in {topic}: ValueError: ten [/oops]" in said
        assert (shell.folder / "r.txt").read_text() == "lax,1101\nstrict,1011\n"

    # What is put back is processed when the run is started again, and has not failed any more.
    put_back = shell.run("dlq", "replay", topic)
    assert "re-published 1 record" in put_back.stdout, put_back.stderr
    mended = shell.run(*asked, "--allow-failures", 2, MENDED="1")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert "2 failures" in mended.stdout
    assert (shell.folder / "r.txt").read_text() == "lax,1101\nstrict,1111\n"


def test_into_live_only_what_became_of_its_own_records_counts(shell, fresh):
    app, orders = fresh("shop"), fresh("orders")
    shell.write("mine.py", APP.format(app=app).replace('"orders"', f'"{orders}"'))
    shell.write("before.txt", "100\n100\n")
    shell.write("n.txt", "1\n100\n")
    assert shell.run("replay", "before.txt", "--to", orders, "--partitions", 1).returncode == 0
    for _ in range(2):
        ran = shell.run("run", "mine", "--input", "n.txt", "--into-live")
        assert ran.returncode == 3, ran.stdout + ran.stderr
        assert f"1 dead letters by agent strict in {orders}" in ran.stdout
        assert "see the workers' logs for records skipped by: lax" in ran.stdout


@pytest.mark.parametrize(
    ("text", "failed", "of", "allowed"),
    [
        ("0", 0, 10, True),
        ("0", 1, 10, False),
        ("3", 3, 3, True),
        ("1%", 1, 100, True),
        ("1%", 1, 99, False),
        ("0.5%", 2, 400, True),
        (" 100 % ", 7, 7, True),
    ],
)
def test_so_many_may_fail(text, failed, of, allowed):
    assert Allowance.parsed(text).allows(failed, of=of) is allowed


@pytest.mark.parametrize("text", ["", "%", "x", "-1", "1.5", "101%", "1e3", "nan%", "٣"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(Usage, match="--allow-failures"):
        Allowance.parsed(text)
