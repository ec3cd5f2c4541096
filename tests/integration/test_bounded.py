"""Bounded runs with several stages, several workers, other writers, and into live topics."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anabranch.replay.runs.completion import Completion
from anabranch.replay.runs.worker_pool import WorkerPool
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from confluent_kafka import TopicPartition

# Lines `key,n` are counted by key, and again by the last digit of n, after a repartition.
STAGED = """
import anabranch
app = anabranch.App("APP", topic_partitions=4)
numbers = app.topic("NUMBERS", value_type=str)
by_key = app.Table("by_key", default=int)
by_digit = app.Table("by_digit", default=int)

@app.agent(numbers, name="first")
async def first(stream):
    async for line in stream:
        by_key[line.split(",")[0]] += 1

@app.agent(numbers, name="second")
async def second(stream):
    async for line in stream.group_by(lambda line: line[-1], name="digit"):
        by_digit[line[-1]] += 1
"""


def write_lines(path: Path, count: int) -> None:
    path.write_text("".join(f"h{n % 7},{n}\n" for n in range(count)))


def read_result(path: Path) -> Counter[str]:
    return Counter({key: int(count) for key, count in (line.split(",") for line in path.read_text().splitlines())})


@contextmanager
def somebody_writing(cluster: Cluster, topic: str) -> Iterator[list[int]]:
    """Lines `live,n` go into a topic for as long as the block lasts, once the topic is there."""
    over, sent = threading.Event(), [0]

    def write() -> None:
        admin, producer = Admin(cluster), cluster.producer(linger_ms=1)
        while topic not in admin.partitions([topic]):
            if over.wait(0.02):
                return
        while not over.wait(0.002):
            producer.produce(topic, f"live,{sent[0]}".encode(), b"live")
            sent[0] += 1
            producer.poll(0)
        producer.flush()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()


def test_stages_and_workers_end_while_somebody_keeps_writing(shell, fresh, broker):
    app, run_id = fresh("staged"), fresh()
    shell.write("staged.py", STAGED.replace("APP", app).replace("NUMBERS", "numbers"))
    write_lines(shell.folder / "n.txt", 30_000)
    command = [
        "run", "staged", "--input", "n.txt", "--key-before", ",", "--processes", 2, "--run-id", run_id,
        "--table", "by_digit", "--output", "digits.txt",
    ]  # fmt: skip
    topic = f"{app}-run-{run_id}-numbers"
    with somebody_writing(broker, topic) as sent:
        ran = shell.run(*command)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert sent[0], "nobody wrote"
    counted = sum(read_result(shell.folder / "digits.txt").values())
    assert 30_000 <= counted <= 30_000 + sent[0]
    said = re.findall(rf"^  ({app}\S+) +(?:[\d,]+ +)??([\d,]+) +[\d.]+(?: +[\d,]+)? *$", ran.stdout, re.MULTILINE)
    stages = {name: int(count.replace(",", "")) for name, count in said}
    assert stages[topic] >= 30_000
    (repartition,) = (name for name in stages if name.endswith("-repartition"))
    assert stages[repartition] >= 30_000


def test_workers_commit_what_they_have_once_all_is_in_kafka(shell, fresh):
    app = fresh("staged")
    settings = "settings=anabranch.agents.engine.settings.EngineSettings(epoch_s=600.0, epoch_bytes=10**12)"
    program = STAGED.replace("topic_partitions=4", f"topic_partitions=4, {settings}")
    shell.write("staged.py", program.replace("APP", app).replace("NUMBERS", "numbers"))
    write_lines(shell.folder / "n.txt", 1_000)
    asked = ["--input", "n.txt", "--key-before", ",", "--table", "by_digit", "--output", "digits.txt"]
    ran = shell.run("run", "staged", *asked)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert read_result(shell.folder / "digits.txt") == {str(digit): 100 for digit in range(10)}


def test_history_goes_into_live_once_beside_live_records(shell, fresh, broker, eventually):
    #   live worker:   ───────────────────────────────────────────────▶
    #   live records:  ─────────────────────────────▶
    #   history:             run --into-live ▶      again: already finished
    app = fresh("staged")
    numbers = f"{app}-numbers"
    shell.write("staged.py", STAGED.replace("APP", app).replace("NUMBERS", numbers))
    write_lines(shell.folder / "n.txt", 20_000)
    Admin(broker).create([TopicSpec(numbers, 4)])
    worker = shell.fork("-A", "staged", "worker", "--without-web")
    eventually(lambda: Completion(broker, app, [numbers]).members() > 0, "the live worker is there")
    command = ["run", "staged", "--input", "n.txt", "--key-before", ",", "--into-live", "--table", "by_key"]
    with somebody_writing(broker, numbers) as sent:
        ran = shell.run(*command, "--output", "first.txt")
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "cannot be taken back" in ran.stderr
    history = {f"h{k}": len(range(k, 20_000, 7)) for k in range(7)}
    first = read_result(shell.folder / "first.txt")
    assert {key: count for key, count in first.items() if key != "live"} == history
    assert worker.poll() is None, "the live worker goes on"

    again = shell.run(*command, "--output", "again.txt")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "already finished" in again.stdout

    def everything_counted() -> bool:
        shell.run("-A", "staged", "tables", "by_key", "-o", "now.txt")
        return read_result(shell.folder / "now.txt") == Counter({**history, "live": sent[0]})

    eventually(everything_counted, "history once, and all that was live")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 0


def test_into_live_brings_its_own_workers_where_there_are_none(shell, fresh, broker):
    app = fresh("staged")
    numbers = f"{app}-numbers"
    shell.write("staged.py", STAGED.replace("APP", app).replace("NUMBERS", numbers))
    write_lines(shell.folder / "n.txt", 2_000)
    ran = shell.run(
        "run", "staged", "--input", "n.txt", "--key-before", ",", "--into-live", "--table", "by_digit", "-o", "d.txt"
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert sum(read_result(shell.folder / "d.txt").values()) == 2_000
    ends = Admin(broker).ends([TopicPartition(numbers, p) for p in range(4)])
    assert sum(ends.values()) >= 2_000
    assert Completion(broker, app, [numbers]).members() == 0, "they left"


def test_an_archive_and_a_topic_are_inputs_too(shell, fresh, broker):
    app, was = fresh("staged"), fresh("was")
    shell.write("staged.py", STAGED.replace("APP", app).replace("NUMBERS", "numbers"))
    write_lines(shell.folder / "n.txt", 2_000)
    fill = ["replay", "n.txt", "--to", was, "--key-before", ",", "--partitions", 4]
    for command in (fill, ["archive", was, "--to", "kept"]):
        made = shell.run(*command)
        assert made.returncode == 0, made.stdout + made.stderr
    for spec in ("kept", f"topic://{was}"):
        command = ["run", "staged", "--input", spec, "--table", "by_key", "-o", "out.txt", "--rate", "100000/s"]
        ran = shell.run(*command)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert read_result(shell.folder / "out.txt") == {f"h{k}": len(range(k, 2_000, 7)) for k in range(7)}
    shell.run(*fill, "--run-id", fresh())
    again = shell.run(*command)
    assert "already finished" in again.stdout
    assert f"topic {was} has grown by" in again.stdout.replace("\n", " ")


def test_workers_that_are_still_starting_when_all_is_done_are_no_failure(tmp_path):
    with WorkerPool(Cluster("127.0.0.1:1"), "anabranch.agents.jobs.keyed_sum", "run", tmp_path) as pool:
        pool.start()
        pool.stop()
    assert not pool.pids


def test_what_a_flow_sends_to_itself_is_no_input_to_choose(shell, fresh):
    app = fresh("flowing")
    shell.write(
        "flowing.py",
        f"from anabranch import App\napp = App('{app}')\nsales = app.topic('sales', partitions=2)\n"
        "by_city = sales.key_by('city', 'amount').reduce(sum, 'by-city')\n",
    )
    shell.write("sales.csv", "city,amount\na,1\nb,2\na,3\n")
    ran = shell.run("run", "flowing", "--input", "sales.csv", "--output", "sums.txt")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert read_result(shell.folder / "sums.txt") == {"a": 4, "b": 2}


def test_a_socket_with_a_spool_is_an_input_like_any_other(shell, fresh) -> None:
    #   connection ── half of the lines, in the spool ─ ✗   connection ── the other half, end   already finished
    run = fresh("spooled")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        command = ["run", "anabranch.agents.jobs.keyed_sum", "--input", f"tcp://127.0.0.1:{server.getsockname()[1]}"]
        command += ["--spool", "lines.spool", "--key-before", ",", "--output", "result.txt", "--run-id", run]
        for begin, killed in ((0, True), (500, False)):
            child = shell.start(*command)
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"".join(b"k%d,%d\n" % (n % 7, n) for n in range(begin, begin + 500)))
                if killed:
                    spooled, deadline = shell.folder / "lines.spool", time.monotonic() + 60
                    while not spooled.exists() or not spooled.read_bytes().endswith(b"k2,499\n"):
                        assert time.monotonic() < deadline
                        time.sleep(0.01)
                    child.kill()
            said, _ = child.communicate(timeout=150)
            assert child.returncode == (-signal.SIGKILL if killed else 0), said
    assert "1,000" in said
    assert read_result(shell.folder / "result.txt") == {f"k{d}": sum(range(d, 1000, 7)) for d in range(7)}
    again = shell.run(*command)
    assert (again.returncode, "already finished" in again.stdout) == (0, True), again.stdout + again.stderr


# Records are summed in tens; the sums go on by key and are collected in tens again, and there is a `within` of an hour.
TAKING = """
import anabranch
app = anabranch.App("APP")
numbers = app.topic("numbers", value_type=int, partitions=2)
sums = app.topic("sums", value_type=list, partitions=2)
groups = app.Table("groups", default=int)

@app.agent(numbers, name="sum")
async def sum_up(stream):
    async for taken in stream.take(10):
        groups[f"numbers {stream.current_event.message.partition}"] += len(taken)
        await sums.send(key=str(sum(taken)), value=taken)

@app.agent(sums, name="collect")
async def collect(stream):
    async for events in stream.take_events(10, within=3600):
        groups[f"lists {events[0].message.partition}"] += len(events)
        groups[f"in lists {events[0].message.partition}"] += sum(len(event.value) for event in events)
"""


def test_what_take_holds_back_comes_at_the_end_of_history_in_every_stage(shell, fresh) -> None:
    app = fresh("taking")
    shell.write("taking.py", TAKING.replace("APP", app))
    shell.write("numbers.txt", "".join(f"{n}\n" for n in range(25)))
    ran = shell.run("run", "taking", "--input", "numbers=numbers.txt", "--output", "groups.json", "--table", "groups")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found: Counter[str] = Counter()
    for row in json.loads((shell.folder / "groups.json").read_text()):
        found[row["key"].rpartition(" ")[0]] += row["value"]
    # Of two partitions, so two or three tens and two rests at most.
    assert found["numbers"] == found["in lists"] == 25
    assert found["lists"] in (3, 4)


def test_an_app_that_starts_at_the_ends_of_its_topics_still_reads_a_runs_history(shell, fresh, broker) -> None:
    app = fresh("ending")
    shell.write(
        "ending.py",
        f"""
import anabranch
app = anabranch.App("{app}", consumer_auto_offset_reset="latest")
lines = app.topic("{app}-lines", value_type=str, partitions=2)
counts = app.Table("counts", default=int)

@app.agent(lines, name="count")
async def count(stream):
    async for line in stream:
        counts[line.split(",")[0]] += 1
""",
    )
    write_lines(shell.folder / "n.txt", 700)
    Admin(broker).create([TopicSpec(f"{app}-lines", 2)])
    producer = broker.producer()
    producer.produce(f"{app}-lines", b"before,0", b"before")
    producer.flush()
    command = ["run", "ending", "--input", "n.txt", "--key-before", ",", "-o", "counts.txt"]
    for more in ([], ["--into-live"]):
        ran = shell.run(*command, *more)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert read_result(shell.folder / "counts.txt") == {f"h{n}": 100 for n in range(7)}
