"""`anabranch runs`, `verify` and `archive` by command."""

from __future__ import annotations

import json
import re

from anabranch.topics.admin import Admin

JOB = "anabranch.agents.jobs.keyed_sum"


def listed(shell, run: str) -> dict:
    told = shell.run("runs", "--json")
    assert told.returncode == 0, told.stderr
    return next((facts for line in told.stdout.splitlines() if (facts := json.loads(line))["run"] == run), {})


def test_a_replay_is_verified_archived_listed_and_forgotten(shell, fresh, broker):
    topic, run = fresh("lines"), fresh("run")
    shell.write("data.txt", "".join(f"k{n % 5},{n}\n" for n in range(300)))
    replay = ["replay", "data.txt", "--to", topic, "--key-before", ",", "--run-id", run]
    assert shell.run(*replay).returncode == 0
    facts = listed(shell, run)
    assert (facts["done"], facts["records"], facts["bounded"], facts["topics"]) == (True, 300, False, [topic])
    assert facts["sources"] == [str(shell.folder / "data.txt")]
    same = shell.run("verify", "data.txt", f"topic://{topic}", "--key-before", ",")
    assert (same.returncode, "equal, ignoring order" in same.stdout) == (0, True), same.stdout + same.stderr
    assert shell.run("archive", topic, "--to", "a").returncode == 0
    assert shell.run("archive", "check", "a").returncode == 0
    back = shell.run("replay", "a", "--to", f"{topic}-again")
    assert back.returncode == 0, back.stderr
    assert shell.run("verify", "a", f"topic://{topic}-again").returncode == 0
    # Forgotten, the run begins anew.
    assert shell.run("runs", run, "--forget", "--yes").returncode == 0
    assert listed(shell, run) == {}
    assert shell.run(*replay).returncode == 0
    differs = shell.run("verify", "a", f"topic://{topic}")
    assert differs.returncode == 1
    assert "or more often there:" in differs.stdout
    assert "[" in differs.stdout and "offset" in differs.stdout


def test_a_bounded_run_is_verified_and_leaves_nothing_when_it_is_forgotten(shell, fresh, broker):
    run_id = fresh()
    name = f"keyed-sum-run-{run_id}"
    shell.write("data.txt", "".join(f"k{n % 5},{n}\n" for n in range(200)))
    command = ["run", JOB, "--input", "data.txt", "--key-before", ",", "--output", "result.txt", "--run-id", run_id]
    ran = shell.run(*command)
    assert ran.returncode == 0, ran.stderr
    assert "verified: 200 records produced, 200 found in the topic" in ran.stdout
    assert "all in Kafka" in ran.stdout and re.search(r"^  timeline +seconds *$", ran.stdout, re.M), (
        "where the time went"
    )
    facts = listed(shell, name)
    assert (facts["done"], facts["records"], facts["bounded"]) == (True, 200, True)
    asked = shell.run("runs", name, "--forget")
    assert asked.returncode != 0, "nobody said yes"
    assert [topic for topic in Admin(broker).partitions() if topic.startswith(f"{name}-")]
    forgotten = shell.run("runs", name, "--forget", "--yes")
    assert forgotten.returncode == 0, forgotten.stderr
    assert [topic for topic in Admin(broker).partitions() if topic.startswith(f"{name}-")] == []
    assert not Admin(broker).has_group(name)
    assert not (shell.folder / ".anabranch" / name).exists()
    assert listed(shell, name) == {}
