"""Apps run in the test's own process and loop, against the session's broker.

Tests here may be coroutine functions. A restart is a second `lab.app` with the first one's name: same group, same data
folder, so the same identity and the same changelogs.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from anabranch import App
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.agents.web import blocked_loop
from anabranch.agents.worker import work
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.topic_partition import TopicPartition
from confluent_kafka import Message
from confluent_kafka import TopicPartition as KafkaPartition

sys.path.insert(0, str(Path(__file__).parent))  # what tests share stands beside them

DEADLINE_S = 90.0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function in a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in wanted}))
    return True


class Record(NamedTuple):
    """A record to produce; text is UTF-8, other values are JSON, None is a tombstone."""

    value: Any
    key: str | bytes | None = None
    timestamp_ms: int = 0
    headers: list[tuple[str, bytes]] | None = None
    partition: int = -1


class Killed(Exception):
    """What ends a worker in `Lab.kill`."""


class Lab:
    """What a test of agents needs around it."""

    def __init__(self, cluster: Cluster, fresh: Callable[[str], str], folder: Path) -> None:
        self.cluster, self.fresh, self.folder = cluster, fresh, folder
        self.admin = Admin(cluster)
        self._producer: Any = None

    def app(self, name: str, *, worker: str = "a", **options: Any) -> App:
        """An app; those with one name and one worker are the same worker, started again."""
        options.setdefault("settings", EngineSettings(session_timeout_ms=6_000))
        app = App(name, datadir=str(self.folder / worker), web_enabled=options.pop("web_enabled", False), **options)
        runtime_of(app).cluster = self.cluster
        return app

    def topic(self, partitions: int = 1, stem: str = "in", **config: str) -> str:
        """A new topic."""
        name = self.fresh(stem)
        self.admin.create([self.spec(name, partitions, **config)])
        return name

    def spec(self, name: str, partitions: int = 1, **config: str) -> TopicSpec:
        """A topic to be; `max_message_bytes` is `max.message.bytes`."""
        return TopicSpec(name, partitions, config={k.replace("_", "."): v for k, v in config.items()})

    def produce(self, topic: str, records: Iterable[Any]) -> None:
        """Records, or values, or pairs of key and value."""
        if self._producer is None:
            self._producer = self.cluster.producer(linger_ms=0)
        failed: list[Any] = []
        for record in records:
            match record:
                case Record():
                    pass
                case (key, value):
                    record = Record(value, key)
                case value:
                    record = Record(value)
            self._producer.produce(
                topic,
                to_bytes(record.value),
                record.key,
                record.partition,
                headers=record.headers or [],
                timestamp=record.timestamp_ms,
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )
            self._producer.poll(0)
        assert self._producer.flush(DEADLINE_S) == 0
        assert not failed, failed

    @asynccontextmanager
    async def running(self, *apps: App) -> AsyncIterator[Any]:
        """Workers, ready on entry; stopped as by SIGTERM on exit. What ended one is raised."""
        workers = await asyncio.gather(*map(self.started, apps))
        try:
            yield apps[0] if len(apps) == 1 else apps
        finally:
            for app in apps:
                runtime_of(app).stop_requested.set()
            ends = await asyncio.wait_for(asyncio.gather(*workers, return_exceptions=True), DEADLINE_S)
        for end in ends:
            if end is not None:
                raise end

    async def started(self, app: App) -> asyncio.Task[None]:
        """The task of a worker that is ready; raises what kept it from that."""
        ready = asyncio.Event()
        worker = asyncio.create_task(work(app, on_ready=lambda _: ready.set()))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({worker, waiting}, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not ready.is_set():
            assert worker.done(), "the worker does not get ready"
            await worker
        return worker

    async def stopped_by(self, app: App) -> BaseException:
        """Run a worker that must end by itself; what ended it."""
        try:
            await asyncio.wait_for(work(app), DEADLINE_S)
        except TimeoutError:
            raise AssertionError("the worker goes on") from None
        except Exception as exc:
            return exc
        raise AssertionError("the worker ended without an error")

    async def kill(self, app: App, worker: asyncio.Task[None]) -> None:
        """End a worker as kill -9 would, as far as Kafka can see: it commits nothing more and does not leave."""
        runtime_of(app).keep_identity = True
        await runtime_of(app).engine.stop_with(Killed())
        with pytest.raises(Killed):
            await asyncio.wait_for(worker, DEADLINE_S)

    async def until(self, condition: Callable[[], Any], what: str = "", deadline_s: float = DEADLINE_S) -> Any:
        """Wait for a condition; its value."""
        deadline = time.monotonic() + deadline_s
        while not (value := condition()):
            assert time.monotonic() < deadline, f"not within {deadline_s:.0f} s: {what or inspect.getsource(condition)}"
            await asyncio.sleep(0.005)
        return value

    async def caught_up(self, topic: str, *apps: App) -> None:
        """Wait until every record of a topic is handled and committed by one of the apps' workers."""
        ends = self.ends(topic)

        def done() -> bool:
            return all(
                any(runtime_of(app).status.committed.get(TopicPartition(topic, p), 0) >= end for app in apps)
                for p, end in ends.items()
                if end
            )

        def failed() -> bool:
            return any(runtime_of(app).stopped_by is not None for app in apps)

        await self.until(lambda: done() or failed(), f"all of {topic} committed")
        for app in apps:
            runtime_of(app).raise_if_stopped()

    def ends(self, topic: str) -> dict[int, int]:
        """Partition -> the offset after its last record."""
        partitions = [KafkaPartition(topic, p) for p in range(self.admin.partitions([topic])[topic])]
        return {p: end for (_, p), end in self.admin.ends(partitions).items()}

    def committed(self, group: str, topic: str) -> dict[int, tuple[int, str]]:
        """Partition -> committed offset and its metadata, for partitions that have one."""
        consumer = self.cluster.consumer(group_id=group)
        try:
            asked = [KafkaPartition(topic, p) for p in self.ends(topic)]
            return {p.partition: (p.offset, p.metadata or "") for p in consumer.committed(asked, 10) if p.offset >= 0}
        finally:
            consumer.close()


def to_bytes(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else msgspec.json.encode(value)


@pytest.fixture(autouse=True)
def loop_that_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of a test block the loop of its workers, on a busy machine for seconds; their web servers answer late then,
    instead of saying so."""
    monkeypatch.setattr(blocked_loop, "BLOCKED_S", 600.0)


@pytest.fixture
def lab(broker: Cluster, fresh: Any, tmp_path: Path) -> Lab:
    """Apps, topics and records on the session's broker."""
    return Lab(broker, fresh, tmp_path)


@pytest.fixture
def record() -> type[Record]:
    """The type of records to produce."""
    return Record


@pytest.fixture
def table_of(drain: Any) -> Callable[[App, str], dict[Any, Any]]:
    """What a table holds for good, read from its changelog: `table_of(app, "totals")`."""

    def read(app: App, table: str) -> dict[Any, Any]:
        return last_values(drain(f"{app.conf.id}-{table}-changelog"))

    return read


def last_values(changelog: list[Message]) -> Mapping[Any, Any]:
    content: dict[Any, Any] = {}
    for message in changelog:
        key = msgspec.json.decode(message.key())
        if message.value() is None:
            content.pop(key, None)
        else:
            content[key] = msgspec.json.decode(message.value())
    return content
