"""Transcripts: scenarios of a few workers as text, each command with what follows from it.

The workers are those of production, on a Kafka in memory and under a virtual clock. A file begins with a comment and a
line with the program; then come blocks of commands, a line `----`, and the events of these commands.

    program totals partitions=2

    start a
    settle
    ----
    a: tables-2[0] tables-2[1] CREATED, RESTORING, RUNNING

Commands:

- `start a`: start worker a. `start a moved`: with an empty data folder, and so with another identity. `start a
  reads=orders`: an older version of the program, which reads only this topic.
- `stop a`: as SIGTERM. `stop a kept`: without leaving the group.
- `kill a`: as `kill -9`.
- `pause a 12s`: its process stands still.
- `fence a producer`: a copy of its process takes its transactional id, and ends; `fence a consumer`: its membership.
- `send orders[0] ann 5`: a record. The value `wait` is processed after `release`; the value `bad` fails.
- `next a commit_transaction refused 5`: its next five of these calls are refused, and the transaction has to be
  aborted. Instead of `refused`: `answer-lost`, `request-lost`; `killed-before` and `killed-after` kill it there.
- `run 2s`: let time pass. `settle`: until all is processed and committed, and the workers wait.
- `recreate orders`: delete a topic and create it again. `forget-offsets`: delete the offsets of the group.
- `show`: what is committed: offsets, tables, dead letters.

Events: states of tasks, records that agents begin to process, commits with their offsets, ends of workers. They are in
order for each worker, and consecutive ones share a line. How they interleave between workers and partitions is not
shown, because it depends on fractions of a second.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from anabranch import App, Stream
from anabranch.agents.engine.settings import EngineSettings
from anabranch.replay.testing.environment import Dead, Environment, without_logs
from anabranch.replay.testing.stillness import Stillness
from anabranch.replay.testing.virtual_loop import _owner
from anabranch.replay.testing.worker_life import WorkerLife
from anabranch.replay.testing.world_outcome import committed_records
from anabranch.topics.durations import duration_s
from anabranch.topics.errors import described
from confluent_kafka import KafkaError, KafkaException

__all__ = ["play"]

T = TypeVar("T")

_SETTLE_S, _STOP_S, _TIMEOUT_S = 120.0, 60.0, 5.0
_TASKS = "anabranch.agents.engine.task"


class Transcript:
    """The workers of a transcript, and what has happened to them.

    Args:
        folder: for the workers' data.
        options: of the program.
    """

    def __init__(self, folder: Path, options: dict[str, str]) -> None:
        self._folder, self._options = folder, options
        self._environment = Environment()
        self._environment.loop.coast_s = 0.2
        self._environment.interceptor = self
        self._kafka: Any = self._environment.kafka
        self._lives: dict[str, WorkerLife] = {}
        self._past: list[WorkerLife] = []
        self._stillness = Stillness(self._environment, self._running)
        self._events: list[tuple[str, str, str]] = []
        self._next: dict[tuple[str, str], list[str]] = {}
        self._lost: dict[tuple[str, str], tuple[Any]] = {}
        self._offsets: dict[Any, Any] = {}
        self._released = False
        self._partitions = int(options.get("partitions", "2"))
        for topic in options.get("topics", "orders").split("+"):
            name, _, count = topic.partition(":")
            self._kafka.create_topic(name, int(count or self._partitions), {})

    # The program ----------------------------------------------------------------------------------------------------

    def _program(self, topics: str) -> App:
        options = self._options
        settings = EngineSettings(
            commit_beside=options.get("commit") == "beside",
            standby_replicas=int(options.get("replicas", "0")),
            group_protocol="consumer" if options.get("protocol") == "consumer" else "classic",
            start_at_end=options.get("start") == "latest",
            exactly_once=options.get("guarantee") != "at-least-once",
        )
        app = App("shop", settings=settings)
        totals: Any = None
        if options["program"] == "totals":
            totals = app.Table("totals", default=int, key_type=str, partitions=self._partitions)
        for topic in topics.split("+"):
            self._add_agent(app, topic.partition(":")[0], totals)
        return app

    def _add_agent(self, app: App, topic: str, totals: Any) -> None:
        writes = totals is not None and len(self._kafka.topics[topic].logs) == self._partitions

        @app.agent(app.topic(topic, key_type=str), name=topic)
        async def process(stream: Stream[Any]) -> None:
            async for event in stream.events():
                message: Any = event.message
                place = f"{topic}[{message.partition}]@{message.offset}"
                self._note("processes", f"{place} {event.key} {event.value}")
                while event.value == "wait" and not self._released:
                    await asyncio.sleep(0.05)
                if event.value == "bad":
                    raise ValueError("bad")
                if writes:
                    totals[event.key] += event.value if isinstance(event.value, int) else 0

    # Events ---------------------------------------------------------------------------------------------------------

    def _note(self, what: str, text: str, worker: str = "") -> None:
        self._events.append((worker or _owner.get().name, what, text))

    def emit(self, record: logging.LogRecord) -> None:
        """Note a change of a task's state."""
        task, _, change = record.getMessage().removeprefix("task ").partition(": ")
        self._note("task", f"{task} {change.rpartition(' ')[2]}")

    def call(self, client: Any, operation: str, act: Callable[[], T]) -> T:
        """Carry out an operation of a worker's client, with what is to happen to it."""
        worker = getattr(client.owner, "name", "")
        due = self._next.get((worker, operation))
        happens = due.pop(0) if due else ""
        if happens:
            self._note(f"{operation}:", happens.replace("-", " "))
        if happens == "refused":
            raise KafkaException(KafkaError(KafkaError.INVALID_TXN_STATE, "refused", False, False, True))
        if happens == "request-lost":
            raise _timed_out()
        if happens == "killed-before":
            self._lives[worker].kill()
            raise Dead
        lost = self._lost.pop((worker, operation), None)
        result: Any = act() if lost is None else lost[0]  # librdkafka resumes a call whose answer was lost
        if operation in ("commit_transaction", "commit"):
            self._note_commit(worker)
        if happens == "killed-after":
            self._lives[worker].kill()
            raise Dead
        if happens == "answer-lost":
            self._lost[worker, operation] = (result,)
            raise _timed_out()
        return result

    def _note_commit(self, worker: str) -> None:
        now = {at: offset for at, (offset, _) in self._kafka.offsets("shop").committed.items()}
        new = {at: offset for at, offset in now.items() if self._offsets.get(at) != offset}
        self._offsets = now
        if new:
            self._note("commits", " ".join(f"{t}[{p}]@{offset}" for (t, p), offset in sorted(new.items())), worker)

    def _taken(self) -> Iterator[str]:
        """Yield the events since the last call, as lines."""
        events, self._events = self._events, []
        for worker in sorted({worker for worker, _, _ in events}):
            own = [(what, text) for other, what, text in events if other == worker]
            yield from (f"{worker}: {line}".rstrip() for line in _lines(_with_one_commit(own)))

    # Commands -------------------------------------------------------------------------------------------------------

    def _running(self) -> list[WorkerLife]:
        return [life for life in self._lives.values() if not life.ended or life.error is not None]

    def start(self, worker: str, how: str = "") -> None:
        topics = how.removeprefix("reads=") if how.startswith("reads=") else self._options.get("topics", "orders")
        if how == "moved":
            shutil.rmtree(self._folder / worker)
        if worker in self._lives:
            self._past.append(self._lives[worker])
        with self._environment.loading():
            app = self._program(topics)
        self._lives[worker] = WorkerLife(self._environment, app, worker, self._folder / worker)
        self._lives[worker].start()
        self.run("0.1s")

    def stop(self, worker: str, how: str = "") -> None:
        life = self._lives[worker]
        life.ask_to_stop(keep_identity=how == "kept")
        self._until(lambda: life.ended, _STOP_S)

    def kill(self, worker: str) -> None:
        self._lives[worker].kill()

    def pause(self, worker: str, duration: str) -> None:
        owner = self._lives[worker].owner
        owner.paused_until_s = self._environment.loop.time() + duration_s(duration)
        with self._environment.entered():
            for group in self._kafka.groups.values():
                for member in group.members.values():
                    if member.client.owner is owner:
                        member.client.fall_silent()

    def fence(self, worker: str, what: str) -> None:
        name = self._lives[worker].runtime.engine.rebalance.instance
        with self._environment.entered():
            cluster = self._kafka.cluster()
            if what == "producer":
                cluster.producer(transactional_id=name).init_transactions()
                return
            copy: Any = cluster.consumer(group_id="shop", group_instance_id=name, session_timeout_ms=10_000)
            copy.subscribe(["orders"])
            copy.consume(1, 0)
            copy.fall_silent()

    def send(self, place: str, key: str, value: str) -> None:
        topic, partition = re.fullmatch(r"(\w+)\[(\d+)\]", place).groups()  # type: ignore[union-attr]
        encoded = value if value.lstrip("-").isdigit() else json.dumps(value)
        with self._environment.entered():
            producer: Any = self._kafka.cluster().producer()
            producer.produce(topic, encoded.encode(), key.encode(), partition=int(partition))
            producer.flush()

    def release(self) -> None:
        self._released = True

    def next(self, worker: str, operation: str, happens: str, times: str = "1") -> None:
        self._next.setdefault((worker, operation), []).extend([happens] * int(times))

    def recreate(self, topic: str) -> None:
        with self._environment.entered():
            self._kafka.delete_topic(topic)
            self._kafka.create_topic(topic, self._partitions, {})

    def forget_offsets(self) -> None:
        self._kafka.offsets("shop").committed.clear()

    def run(self, duration: str) -> None:
        self._until(lambda: False, duration_s(duration))

    def settle(self) -> None:
        stillness = self._stillness
        if not self._until(lambda: stillness.failed or stillness.is_settled(), _SETTLE_S):
            self._note("not settled:", "; ".join(stillness.unsettled()), "!")

    def _until(self, condition: Callable[[], bool], within_s: float) -> bool:
        loop = self._environment.loop
        loop.coast = self._stillness.is_still
        try:
            return self._environment.run_until(condition, loop.time() + within_s)
        finally:
            loop.coast = None
            for name, life in self._lives.items():
                if life.ended and life not in self._past:
                    self._past.append(life)
                    error = life.error
                    self._note("ended", "" if error is None else described(error).partition("\n")[0], name)

    def show(self) -> None:
        committed = self._kafka.offsets("shop").committed.items()
        offsets = " ".join(f"{topic}[{number}]@{offset}" for (topic, number), (offset, _) in sorted(committed))
        self._note("offsets", offsets or "-", "committed")
        changelog = self._kafka.topics.get("shop-totals-changelog")
        for log in changelog.logs if changelog is not None else ():
            content: dict[str, str] = {}
            for record in committed_records(log):
                content[record.key.decode()] = record.value.decode()
            pairs = " ".join(f"{key}={value}" for key, value in sorted(content.items()))
            if pairs:
                self._note(f"totals[{log.partition}]", pairs, "committed")
        for topic in [name for name in self._kafka.topics if name.endswith(".dlq")]:
            records = [record for log in self._kafka.topics[topic].logs for record in committed_records(log)]
            self._note(topic, " ".join(record.value.decode() for record in records), "committed")

    def close(self) -> None:
        for life in [*self._past, *self._lives.values()]:
            life.close()
        with without_logs():
            self._environment.close()

    def carry_out(self, commands: list[str]) -> list[str]:
        """Carry out commands and return the events."""
        handler = logging.Handler()
        handler.emit = self.emit
        logger = logging.getLogger(_TASKS)
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        try:
            for command in commands:
                name, *arguments = command.split()
                getattr(self, name.replace("-", "_"))(*arguments)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        return list(self._taken())


def play(text: str, folder: Path) -> str:
    """Return a transcript with the events as they are now."""
    made: list[str] = []
    transcript: Transcript | None = None
    commands: list[str] = []
    skipping = False
    try:
        for line in [*text.splitlines(), ""]:
            if skipping:  # the events as they were
                skipping = bool(line)
                if skipping:
                    continue
            made.append(line)
            if not line or line.startswith("#"):
                continue
            if line.startswith("program "):
                program, *options = line.split()[1:]
                transcript = Transcript(folder, {"program": program, **dict(each.split("=", 1) for each in options)})
            elif line == "----":
                assert transcript is not None, "the program comes first"
                made += transcript.carry_out(commands)
                commands, skipping = [], True
            else:
                commands.append(line)
        return "\n".join(made).rstrip() + "\n"
    finally:
        if transcript is not None:
            with suppress(Dead):
                transcript.close()


def _with_one_commit(events: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Join the commits: how many there are depends on the time between two records."""
    offsets = dict(at.split("@") for what, text in events if what == "commits" for at in text.split())
    last = max((index for index, (what, _) in enumerate(events) if what == "commits"), default=-1)
    joined = " ".join(f"{at}@{offset}" for at, offset in sorted(offsets.items()))
    events = [(what, joined if index == last else text) for index, (what, text) in enumerate(events)]
    return [event for index, event in enumerate(events) if event[0] != "commits" or index == last]


def _lines(events: list[tuple[str, str]]) -> Iterator[str]:
    """Yield events, consecutive ones of a kind in one line, and records of several partitions in order of these."""
    for what, group in groupby(events, key=lambda event: event[0]):
        texts = [text for _, text in group]
        if what != "task":
            if what == "processes":
                texts.sort(key=lambda text: text.partition("@")[0])
            yield f"{what} {', '.join(texts)}"
            continue
        states: dict[str, list[str]] = {}
        for text in texts:
            task, _, state = text.partition(" ")
            states.setdefault(task, []).append(state)
        tasks: dict[str, list[str]] = {}
        for task in sorted(states):
            tasks.setdefault(", ".join(states[task]), []).append(task)
        yield from (f"{' '.join(names)} {after}" for after, names in tasks.items())


def _timed_out() -> KafkaException:
    return KafkaException(KafkaError(KafkaError._TIMED_OUT, "timed out", False, True, False))
