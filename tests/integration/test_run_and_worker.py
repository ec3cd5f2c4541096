"""An agent computes the same totals in a bounded run over a file and in a worker on a live stream."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import threading
import zipfile
from collections import Counter
from pathlib import Path

import polars
import pytest
import zstandard
from anabranch.replay.cli.demo_script import flight_data
from anabranch.topics.admin import Admin
from anabranch.topics.partitioners import HashPartitioner

JOB = "anabranch.agents.jobs.keyed_sum"
FLIGHTS = "anabranch.agents.jobs.flights"

# An app with a table and an output topic, so that both can be audited.
AUDITED = """
import anabranch
app = anabranch.App("audited", topic_partitions=4)
numbers = app.topic("numbers", value_type=str)
results = app.topic("results", value_type=str)
sums = app.Table("sums", default=int)

@app.agent(numbers, name="add")
async def add(stream):
    async for line in stream:
        key, _, number = line.partition(",")
        sums[key] += int(number)
        await results.send(key=key, value=line)
"""

# The first worker waits at its first record until the second one has partitions, too: it could be through before.
SHARED = (
    AUDITED.replace(
        "    async for line in stream:\n",
        """    async for line in stream:
        while len(list(pathlib.Path().glob("assigned-*"))) < 2:
            await asyncio.sleep(0.02)
""",
    ).replace(
        "import anabranch\n",
        """import asyncio, os, pathlib
import anabranch
""",
    )
    + """
@app.on_partitions_assigned.connect
async def assigned(app, assigned, **kwargs):
    if assigned:
        pathlib.Path(f"assigned-{os.getpid()}").touch()
"""
)

# What stands in a table depends on each record's key, value and time.
FORMATS = """
import anabranch, msgspec
class Order(msgspec.Struct):
    user: str
    n: int
    f: float

app = anabranch.App("APP", topic_partitions=4)
orders = app.topic("orders", value_type=Order, partitions=4)
sums = app.Table("sums", default=float)

@app.agent(orders)
async def add(stream):
    async for event in stream.events():
        order = event.value
        sums[order.user] += order.n * order.f + event.message.timestamp % 1000
"""


def write_lines(path: Path, count: int, *, keys: int = 40, seed: int = 7) -> Counter[str]:
    """`key,int` lines and their totals; each number stands once, so that an audit can tell records apart."""
    rng = random.Random(seed)
    totals: Counter[str] = Counter()
    with path.open("w") as file:
        for number in range(count):
            key = f"k{rng.randrange(keys)}"
            totals[key] += number
            file.write(f"{key},{number}\n")
    return totals


def read_result(path: Path) -> dict[str, int]:
    return {key: int(total) for key, total in (line.split(",") for line in path.read_text().splitlines())}


def serve_lines(path: Path) -> int:
    """Serve a file on a socket to the first who connects, as `nc -l` would; returns the port."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection, server:
            connection.sendall(path.read_bytes())

    threading.Thread(target=serve, daemon=True).start()
    return server.getsockname()[1]


def test_file_and_socket_end_with_the_same_totals(shell, fresh, eventually):
    totals = write_lines(shell.folder / "data.txt", 20_000)

    ran = shell.run(
        "run", JOB, "--input", "data.txt", "--key-before", ",", "--output", "result.txt", "--run-id", fresh()
    )
    assert ran.returncode == 0, ran.stderr
    assert read_result(shell.folder / "result.txt") == totals
    lines = (shell.folder / "result.txt").read_text().splitlines()
    assert lines == sorted(lines, key=lambda line: line.split(",")[0])
    of_file = re.search(r"digest (\w{32})", ran.stdout)[1]

    live = fresh()
    worker = shell.fork("-A", JOB, "worker", "--without-web", ANABRANCH_RUN=live)
    port = serve_lines(shell.folder / "data.txt")
    topic = f"keyed-sum-run-{live}-lines"
    replayed = shell.run("replay", f"tcp://localhost:{port}", "--to", topic, "--key-before", ",")
    assert replayed.returncode == 0, replayed.stderr

    def same() -> bool:
        shown = shell.run("-A", JOB, "tables", "--run-id", live, "--digest")
        return shown.stdout.strip() == of_file

    eventually(same, "the live totals reach those of the file")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 0


def test_a_finished_run_computes_nothing_and_writes_its_result_again(shell, fresh):
    totals = write_lines(shell.folder / "data.txt", 1_000)
    command = ["run", JOB, "--input", "data.txt", "--key-before", ",", "--output", "result.txt", "--run-id", fresh()]
    assert shell.run(*command).returncode == 0
    (shell.folder / "result.txt").unlink()
    again = shell.run(*command)
    assert again.returncode == 0
    assert "already finished" in again.stdout
    assert read_result(shell.folder / "result.txt") == totals


def test_a_changed_file_and_a_changed_program_are_new_runs(shell, fresh):
    program = AUDITED.replace("audited", fresh("audited"))
    shell.write("audited.py", program)
    command = ["run", "audited", "--input", "numbers=n.txt", "--key-before", ",", "--output", "sums.txt"]
    write_lines(shell.folder / "n.txt", 500)
    assert shell.run(*command).returncode == 0
    totals = write_lines(shell.folder / "n.txt", 700)
    assert shell.run(*command).returncode == 0
    assert read_result(shell.folder / "sums.txt") == totals
    shell.write("audited.py", program.replace("+= int(number)", "+= 2 * int(number)"))
    assert shell.run(*command).returncode == 0
    assert read_result(shell.folder / "sums.txt") == {key: 2 * total for key, total in totals.items()}


def worker_pids(run: int) -> list[int]:
    """Children of a process that run the worker command; processes may end while they are read."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for pid in Path(f"/proc/{run}/task/{run}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    found.append(int(pid))
    return found


def audit(shell, drain, app: str, run_id: str, lines: list[str], totals: Counter[str]) -> None:
    assert read_result(shell.folder / "sums.txt") == totals
    results = [message.value().decode() for message in drain(f"{app}-run-{run_id}-results")]
    assert Counter(results) == Counter(lines), "every result once"


def test_workers_killed_in_the_middle_of_a_run_change_nothing(shell, fresh, drain, eventually):
    #   replay:  ───────────────────────────────▶ end
    #   worker:  ────✗ ───✗ ────✗ ──────────────▶ drained
    app, run_id = fresh("audited"), fresh()
    shell.write("audited.py", AUDITED.replace("audited", app))
    totals = write_lines(shell.folder / "n.txt", 150_000)
    command = ["run", "audited", "--input", "n.txt", "--key-before", ",", "--output", "sums.txt", "--run-id", run_id]
    run = shell.start(*command)
    killed: set[int] = set()

    def kill_one_that_has_begun() -> bool:
        log = shell.folder / ".anabranch" / f"{app}-run-{run_id}" / "worker-0.log"
        for pid in set(worker_pids(run.pid)) - killed:
            if log.exists() and log.read_text().count("ready on") > len(killed):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        return len(killed) >= 3 or run.poll() is not None

    eventually(kill_one_that_has_begun, "three workers have been killed")
    output, _ = run.communicate(timeout=150)
    assert run.returncode == 0, output
    assert killed, "the run was over before a worker could be killed"
    workers = "crashed worker" if len(killed) == 1 else "crashed workers"
    assert f"restarted {len(killed)} {workers};" in output
    audit(shell, drain, app, run_id, (shell.folder / "n.txt").read_text().splitlines(), totals)


def test_a_run_killed_itself_goes_on_with_the_same_command(shell, fresh, drain, eventually):
    app, run_id = fresh("audited"), fresh()
    shell.write("audited.py", AUDITED.replace("audited", app))
    totals = write_lines(shell.folder / "n.txt", 150_000)
    command = ["run", "audited", "--input", "n.txt", "--key-before", ",", "--output", "sums.txt", "--run-id", run_id]
    for _ in range(2):
        run = shell.start(*command)
        eventually(lambda run=run: bool(worker_pids(run.pid)) or run.poll() is not None, "workers are there")
        workers = worker_pids(run.pid)
        run.kill()
        run.communicate()
        eventually(
            lambda pids=workers: not any(Path(f"/proc/{p}/exe").exists() for p in pids), "workers end with their run"
        )
        assert not (shell.folder / "sums.txt").exists()
    ended = shell.run(*command)
    assert ended.returncode == 0, ended.stderr
    audit(shell, drain, app, run_id, (shell.folder / "n.txt").read_text().splitlines(), totals)


def test_several_processes_share_the_partitions(shell, fresh, drain):
    app, run_id = fresh("audited"), fresh()
    shell.write("audited.py", SHARED.replace("audited", app))
    totals = write_lines(shell.folder / "n.txt", 100_000)
    ran = shell.run(
        "run", "audited", "--input", "n.txt", "--key-before", ",", "--output", "sums.txt", "--run-id", run_id,
        "--processes", 2,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    audit(shell, drain, app, run_id, (shell.folder / "n.txt").read_text().splitlines(), totals)
    logs = [(shell.folder / ".anabranch" / f"{app}-run-{run_id}" / f"worker-{n}.log").read_text() for n in (0, 1)]
    assert all("assigned" in log for log in logs)


def test_a_worker_told_to_end_commits_leaves_and_its_successor_goes_on(shell, fresh, eventually):
    app = fresh("audited")
    shell.write("audited.py", AUDITED.replace("audited", app).replace('"numbers"', f'"{app}-numbers"'))
    shell.write("audited.py", (shell.folder / "audited.py").read_text().replace('"results"', f'"{app}-results"'))
    totals: Counter[str] = Counter()
    for round_ in range(2):
        totals += write_lines(shell.folder / f"n{round_}.txt", 5_000, seed=round_)
        worker = shell.fork("-A", "audited", "worker", "--without-web")
        sent = shell.run("replay", f"n{round_}.txt", "--to", f"{app}-numbers", "--key-before", ",")
        assert sent.returncode == 0, sent.stderr

        def reached(expected: Counter[str] = totals) -> bool:
            shell.run("-A", "audited", "tables", "-o", "now.txt")
            now = shell.folder / "now.txt"
            return now.exists() and read_result(now) == expected

        eventually(reached, "the totals are reached")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(120) == 0


def test_flights_agree_with_an_independent_computation(shell, fresh, broker):
    data = flight_data()
    run_id, year = fresh(), unzipped(data / "flights.csv.zip", shell.folder)
    some = shell.write("some.csv", "".join(year.read_text().splitlines(keepends=True)[:100_000]))
    with zipfile.ZipFile(shell.folder / "some.csv.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(some, "some.csv")
    command = [
        "run", FLIGHTS, "--key", "carrier", "--time", "flights=time_hour", "--table", "carriers", "--null", "NA",
        "--input", f"airlines={data / 'airlines.csv'}", "--then", "flights=some.csv.zip", "--run-id", run_id,
    ]  # fmt: skip
    ran = shell.run(*command, "--output", "carriers.csv")
    assert ran.returncode == 0, ran.stderr
    result = polars.read_csv(shell.folder / "carriers.csv")
    steps = re.findall(r"^  ([a-zA-Z0-9 ]+?) +[\d.]+ *$", ran.stdout.partition("timeline")[2], re.MULTILINE)
    assert sorted(steps[:3]) == ["first records in Kafka", "stage 1 in Kafka", "workers started"]
    assert steps[3:6] == ["stage 1 processed", "all in Kafka", "processed"]

    flights = polars.read_csv(some, null_values=["NA"])
    truth = (
        flights.group_by("carrier")
        .agg(
            polars.len().alias("flights"),
            polars.col("dep_time").is_null().sum().alias("cancelled"),
            polars.col("dep_delay").mean().alias("mean_delay_min"),
        )
        .join(polars.read_csv(data / "airlines.csv"), on="carrier")
        .sort("carrier")
    )
    assert result["key"].to_list() == truth["carrier"].to_list()
    assert result["name"].to_list() == truth["name"].to_list()
    assert result["flights"].to_list() == truth["flights"].to_list()
    assert result["cancelled"].to_list() == truth["cancelled"].to_list()
    assert result["mean_delay_min"].to_list() == pytest.approx(truth["mean_delay_min"].to_list(), abs=0.0051)

    # Asked again, for another file format, nothing is computed a second time.
    again = shell.run(*command, "--output", "carriers.parquet")
    assert "already finished" in again.stdout, again.stderr
    assert polars.read_parquet(shell.folder / "carriers.parquet")["flights"].to_list() == truth["flights"].to_list()


def unzipped(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as zipped:
        return Path(zipped.extract("flights.csv", folder))


def test_a_year_of_history_keeps_its_own_times_and_java_s_places(shell, fresh, broker, drain):
    topic = fresh("flights")
    shell.write(
        "f.csv", "carrier,time\nUA,2013-01-01T10:00:00Z\nAA,2013-06-30 08:30:00\nDL,2013-12-31T23:59:59-05:00\n"
    )
    sent = shell.run("replay", "f.csv", "--to", topic, "--key", "carrier", "--time", "time")
    assert sent.returncode == 0, sent.stderr
    records = {message.key(): message for message in drain(topic)}
    stamps = {key: message.timestamp()[1] for key, message in records.items()}
    assert stamps == {b"UA": 1_357_034_400_000, b"AA": 1_372_581_000_000, b"DL": 1_388_552_399_000}
    assert all(message.partition() == HashPartitioner(4).partition(key) for key, message in records.items())
    assert Admin(broker).config(topic)["retention.ms"] == "-1"


def test_the_same_history_in_any_format_ends_with_the_same_digest(shell, fresh):
    #   one history ─┬─ a.csv        ┐
    #                ├─ a.jsonl.zst  ├─ the same agent ── the same digest
    #                ├─ a.parquet    │
    #                └─ year=…/…avro ┘
    app = fresh("formats")
    shell.write("formats.py", FORMATS.replace("APP", app))
    rng = random.Random(3)
    rows = [{"user": f"u{rng.randrange(50)}é", "n": n, "f": n / 4, "at": 1_357_034_400_000 + n} for n in range(2_000)]
    frame = polars.DataFrame(rows)
    frame.write_csv(shell.folder / "a.csv")
    lines = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    (shell.folder / "a.jsonl.zst").write_bytes(zstandard.compress(lines))
    frame.write_parquet(shell.folder / "a.parquet", row_group_size=300)
    (shell.folder / "lake" / "year=2013").mkdir(parents=True)
    frame.write_avro(shell.folder / "lake" / "year=2013" / "a.avro")
    digests = []
    for path in ("a.csv", "a.jsonl.zst", "a.parquet", "lake"):
        ran = shell.run("run", "formats", "--input", path, "--key", "user.lower()", "--time", "at", "--table", "sums")
        assert ran.returncode == 0, ran.stderr
        digests.append(re.search(r"digest (\w{32})", ran.stdout)[1])
    assert len(set(digests)) == 1, digests
