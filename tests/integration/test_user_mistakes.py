"""Common mistakes of new users are answered in one or two lines, without a traceback."""

from __future__ import annotations

import pytest

APP = """
from anabranch import App
app = App("{app}", topic_partitions=1)
orders = app.topic("{app}-orders", value_type=int)

@app.agent(orders)
{head}
"""
GOOD = "async def total(stream):\n    async for n in stream:\n        pass"


@pytest.mark.parametrize(
    ("module", "arguments", "words", "code"),
    [
        (GOOD, ["-X", "nonsense=1"], ["-X nonsense", "no such option"], 2),
        (GOOD, ["-X", "acks=0"], ["acks", "omit it"], 2),
        (GOOD, ["-D", "/proc/data"], ["/proc/data: No such file or directory"], 1),
        (GOOD, ["-D", "mine.py"], ["mine.py: File exists"], 1),
        (GOOD, ["-b", "no-such-host.invalid:9092"], ["cannot resolve", "check the name"], 1),
        ("def total(stream):\n    for n in stream:\n        pass", [], ["plain function (mine.py:6)", "async def"], 2),
        (f"{GOOD}\nimport sys\nsys.exit(3)", [], ["mine ends the program", "mine.py:11"], 2),
        (f"{GOOD}\nx = (", [], ["mine is not valid Python", "mine.py:10"], 2),
        (f"{GOOD}\nimport not_there", [], ["needs the module not_there", "mine.py:10"], 2),
        (f"{GOOD}\nApp('two words')", [], ["App('two words')", "letters, digits"], 2),
    ],
)
def test_a_worker_says_what_is_wrong(shell, fresh, module, arguments, words, code):
    shell.write("mine.py", APP.format(app=fresh("app"), head=module))
    ended = shell.run("-A", "mine", "worker", "--without-web", *arguments)
    assert ended.returncode == code, ended.stderr
    assert all(word in ended.stderr for word in words), ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) <= 2, ended.stderr


def test_commands_say_what_was_meant(shell):
    shell.write("mine.py", APP.format(app="a", head=f"{GOOD}\napp.Table('totals')"))
    shell.write("n.txt", "1\n")
    for arguments, meant in (
        (["-A", "mine", "wrker"], "did you mean worker?"),
        (["broker", "strt"], "did you mean start?"),
        (["worker", "-A", "mine"], "-A goes before the command: anabranch -A MODULE worker"),
        (["-l", "info", "-A", "mine", "worker"], "options of a command follow it"),
        (["worker", "--procesess", "2"], "Did you mean --processes?"),
        (["-A", "mine", "worker", "-p", "0"], "0 is not in the range"),
        (["broker", "--port", "70000"], "70000 is not in the range"),
        (["worker", "-w"], "did you mean --with-web or --web-port or --web-host or --web-bind?"),
        (["mine", "worker"], "-A names the app: anabranch -A mine worker"),
        (["-A", "mien", "worker"], "did you mean mine?"),
        (["-A", "mine:ap", "worker"], "did you mean app?"),
        (["-A", "mine", "tables", "total"], "did you mean totals?"),
        (["-A", "mine", "tables", "bakup"], "did you mean backup?"),
        (["run", "mine", "--input", "n.txt", "--output", "totals=n.csv"], "--table totals --output n.csv"),
        (["run", "mine", "--input", "a-ordrs=n.txt"], "did you mean a-orders?"),
    ):
        ended = shell.run(*arguments)
        assert ended.returncode == 2
        assert meant in ended.stderr, arguments
        assert "Traceback" not in ended.stderr
    assert "3    run: finished" in shell.run("--help").stdout


def test_topics_and_groups_are_named_with_the_nearest_one(shell, fresh):
    topic = fresh("orders")
    assert shell.run("send", topic, "-", "1", "--create").returncode == 0
    wrong = topic.replace("orders", "ordrs")
    for arguments in (
        ["tail", wrong],
        ["replay", f"topic://{wrong}", "--to", "x"],
        ["archive", wrong, "--to", "archived"],
        ["send", wrong, "-", "1"],
    ):
        ended = shell.run(*arguments)
        assert ended.returncode == 2, ended.stderr
        assert f"there is no topic {wrong}" in ended.stderr
        assert f"did you mean {topic}?" in ended.stderr


def test_a_result_that_cannot_be_written_is_refused_before_the_work(shell, fresh):
    shell.write("mine.py", APP.format(app=fresh("app"), head=f"{GOOD}\napp.Table('t')"))
    shell.write("n.txt", "1\n")
    for output, word in (("mine.py/out.csv", "is no folder"), ("/proc/nope/out.csv", "")):
        ended = shell.run("run", "mine", "--input", "n.txt", "-o", output)
        assert ended.returncode in (1, 2), ended.stdout
        assert word in ended.stderr
        assert "Traceback" not in ended.stderr
