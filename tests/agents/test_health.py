"""Health checks and Prometheus metrics."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.histogram import Histogram
from anabranch.agents.runtime import runtime_of
from anabranch.agents.web.metrics import histogram
from anabranch.topics.errors import Usage
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.memory_suffices(
    "test_figures_agree_with_what_happened",
    "test_a_worker_without_partitions_is_ready_and_one_without_a_turn_is_not",
    "test_a_worker_that_is_behind_is_alive_and_not_ready",
)


async def get(app: Any, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{app.conf.web_port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def figures(app: Any) -> dict[tuple[str, ...], float]:
    """Name and label values, by the labels' names -> value."""
    status, text = await get(app, "/metrics")
    assert status == 200
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_figures_agree_with_what_happened(lab, free_port) -> None:
    topic, name = lab.topic(2), lab.fresh("app")
    app = lab.app(name, web_enabled=True, web_port=free_port())
    totals = app.Table("totals", default=int)

    @app.agent(app.topic(topic), name="total")
    async def total(stream):
        async for value in stream:
            if value == 13:
                raise ValueError("unlucky")
            totals[f"k{value % 10}"] += value

    @app.agent(app.topic(topic), name="other", on_failure="skip")
    async def other(stream):
        async for value in stream:
            assert value != 14

    lab.produce(topic, [(f"k{i % 10}", i) for i in range(100)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        await lab.until(lambda: not runtime_of(app).status.epoch_age_s(1e12))
        assert await get(app, "/healthz") == await get(app, "/readyz") == (200, "ok")
        found = await figures(app)
    assert found["anabranch_records_total",] == 100
    assert found["anabranch_dead_letters_total",] == 1
    assert found["anabranch_skipped_records_total",] == 1
    assert found["anabranch_rollbacks_total",] >= 1
    assert found["anabranch_commits_total",] == found["anabranch_commit_duration_seconds_count",] >= 1
    assert found["anabranch_commit_duration_seconds_bucket", "+Inf"] == found["anabranch_commits_total",]
    assert found["anabranch_commit_duration_seconds_sum",] > 0
    assert found["anabranch_rebalances_total",] == found["anabranch_rebalance_duration_seconds_count",] == 1
    assert found["anabranch_assigned_partitions", topic] == 2
    assert found["anabranch_table_keys", "totals"] == 10
    assert found["anabranch_ready",] == 1
    assert found["anabranch_epoch_age_seconds",] == 0
    assert {found["kafka_consumergroup_lag", name, str(p), topic] for p in range(2)} == {0}
    assert found["process_resident_memory_bytes",] > 20e6
    about = next(key for key in found if key[0] == "anabranch_worker_info")
    assert about[1] == name
    assert about[2] == runtime_of(app).status.instance


async def test_a_worker_that_is_behind_is_alive_and_not_ready(lab, free_port) -> None:
    topic, let_go = lab.topic(), asyncio.Event()
    settings = EngineSettings(session_timeout_ms=6_000, ready_lag_records=50)
    app = lab.app(lab.fresh("app"), web_enabled=True, web_port=free_port(), settings=settings)

    @app.agent(app.topic(topic), name="slow")
    async def slow(stream):
        async for value in stream:
            if value == 10:
                await let_go.wait()

    lab.produce(topic, range(100))
    async with lab.running(app):
        await lab.until(lambda: runtime_of(app).status.busy_s(1e12))
        await lab.until(lambda: runtime_of(app).status.lags())
        status, why = await get(app, "/readyz")
        assert (status, why) == (503, f"{sum(runtime_of(app).status.lags().values())} records behind, the limit is 50")
        assert (await figures(app))["anabranch_ready",] == 0
        assert await get(app, "/healthz") == (200, "ok")
        # An agent that never comes back from a record is another matter.
        runtime_of(app).status.settings = replace(runtime_of(app).status.settings, max_poll_interval_ms=0)
        status, why = await get(app, "/healthz")
        assert (status, why.partition(" for ")[0]) == (503, "an agent has worked on one record")
        let_go.set()
        await lab.caught_up(topic, app)
        assert await get(app, "/readyz") == (200, "ok")


async def test_a_worker_without_partitions_is_ready_and_one_without_a_turn_is_not(lab, free_port) -> None:
    topic, name = lab.topic(1), lab.fresh("app")

    def worker(which: str) -> Any:
        app = lab.app(name, worker=which, web_enabled=True, web_port=free_port())

        @app.agent(app.topic(topic), name="nothing")
        async def nothing(stream):
            async for _ in stream:
                pass

        return app

    a, b = worker("a"), worker("b")
    async with lab.running(a), lab.running(b):
        await lab.until(lambda: sorted(len(runtime_of(app).status.owned) for app in (a, b)) == [0, 1])
        await lab.until(lambda: not (runtime_of(a).status.rebalancing or runtime_of(b).status.rebalancing))
        assert await get(a, "/readyz") == await get(b, "/readyz") == (200, "ok")


async def test_two_workers_that_start_in_the_same_instant_both_have_a_port(lab, free_port) -> None:
    name, port = lab.fresh("app"), free_port()
    apps = [lab.app(name, worker=which, web_enabled=True, web_port=port) for which in "abcd"]
    async with lab.running(*apps):
        assert len({app.conf.web_port for app in apps}) == len(apps)
        assert port in {app.conf.web_port for app in apps}
        assert [await get(app, "/healthz") for app in apps] == [(200, "ok")] * len(apps)


async def test_an_address_that_is_not_this_machine_s_is_said_clearly(lab, free_port) -> None:
    app = lab.app(lab.fresh("app"), web_enabled=True, web_port=free_port(), web_bind="192.0.2.1")
    error = await lab.stopped_by(app)
    assert isinstance(error, Usage)
    assert "192.0.2.1" in str(error)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_an_address_of_ipv6_is_the_host_of_a_worker(lab, free_port, host: str) -> None:
    app = lab.app(lab.fresh("app"), web_enabled=True, web_port=free_port())
    runtime_of(app).configure(web_host=host)  # as --web-host
    async with lab.running(app):
        assert str(app.conf.canonical_url) == f"http://[::1]:{app.conf.web_port}"


@pytest.mark.parametrize("host", ["my host", "http://node-7", "node-7:6066"])
async def test_a_host_that_is_no_name_is_said_clearly(lab, free_port, host: str) -> None:
    app = lab.app(lab.fresh("app"), web_enabled=True, web_port=free_port())
    runtime_of(app).configure(web_host=host)
    error = await lab.stopped_by(app)
    assert isinstance(error, Usage)
    assert f"web: {host!r} is not the name or the address of a machine" in str(error)


def test_buckets_of_a_histogram_add_up() -> None:
    took = Histogram()
    for value in (0.0001, 0.001, 0.2, 1000):
        took.observe(value)
    found = {
        (sample.name, *sample.labels.values()): sample.value for sample in histogram("took_seconds", "", took).samples
    }
    assert found["took_seconds_bucket", "0.001"] == 2
    assert found["took_seconds_bucket", "0.25"] == 3
    assert found["took_seconds_bucket", "60.0"] == 3
    assert found["took_seconds_bucket", "+Inf"] == found["took_seconds_count",] == 4
    assert found["took_seconds_sum",] == pytest.approx(1000.2011)
