"""Values of settings that mean nothing are refused in one sentence, before a worker starts."""

from __future__ import annotations

from typing import Any

import pytest
from anabranch import App
from anabranch.agents import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.topics.errors import Usage, understood


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epoch_s", -1, "a number of at least 0"),
        ("epoch_s", float("nan"), "a number of at least 0"),
        ("epoch_s", "0.1", "a number of at least 0"),
        ("epoch_s", None, "a number of at least 0"),
        ("epoch_s", True, "a number of at least 0"),
        ("commit_share", 75, "a number from 0 to 1"),
        ("batch_records", 0, "a whole number of at least 1"),  # the worker would read nothing
        ("batch_records", 20_000.0, "a whole number of at least 1"),
        ("backlog_records", 0, "a whole number of at least 1"),
        ("align_s", -0.5, "a number of at least 0, or None"),
        ("max_outputs", 0, "a whole number of at least 1"),
        ("max_failure_share", 50, "a number from 0 to 1"),  # meant as per cent, it would switch off the limit
        ("standby_replicas", -1, "a whole number of at least 0"),
        ("exactly_once", "no", "True or False"),  # a text is true
        ("group_protocol", "cooperative", "classic or consumer"),
        ("forwarded_headers", "Authorization", "a tuple of names"),
    ],
)
def test_a_value_without_meaning_is_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(Usage) as refused:
        EngineSettings(**{name: value})
    assert f"{name}={value!r}: expected {expected}" == str(refused.value).partition("\n")[0]


@pytest.mark.parametrize(
    "options", [{"epoch_s": 0}, {"epoch_s": float("inf")}, {"align_s": None}, {"batch_records": 1}]
)
def test_limits_themselves_are_allowed(options: Any) -> None:
    EngineSettings(**options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("consumer_options", {"isolation.level": "read_uncommitted"}),
        ("consumer_options", {"group.id": "other"}),
        ("producer_options", {"partitioner": "consistent_random"}),
    ],
)
def test_options_of_librdkafka_that_results_rest_on_are_refused(name: str, options: Any) -> None:
    with pytest.raises(Usage, match=f"{name}: anabranch sets {next(iter(options))} itself"):
        EngineSettings(**{name: options})


def test_a_setting_of_faust_is_named_as_faust_calls_it() -> None:
    app = App("slow", broker_max_poll_records=0)
    with pytest.raises(Usage, match=r"^broker_max_poll_records=0: expected a whole number of at least 1"):
        runtime_of(app).settings  # noqa: B018


@pytest.mark.parametrize(
    ("env", "options", "named"),
    [
        ({"TOPIC_PARTITIONS": "eight"}, {}, "TOPIC_PARTITIONS in the environment: .*'eight'"),
        ({"SHOP_TOPIC_PARTITIONS": ""}, {"env_prefix": "SHOP_"}, "SHOP_TOPIC_PARTITIONS in the environment: "),
        ({"PROCESSING_GUARANTEE": "exactly-once"}, {}, "PROCESSING_GUARANTEE in the environment: .*'exactly-once'"),
        ({"TIMEZONE": "Mars/North"}, {}, "TIMEZONE in the environment: UnknownTimeZoneError: .*Mars/North"),
        ({}, {"broker_commit_interval": "1s"}, r"App\(broker_commit_interval=…\): .*'1s'"),
    ],
)
def test_a_value_that_cannot_be_read_is_refused_with_the_name_of_its_setting(env, options, named: str) -> None:
    with pytest.raises(Usage, match=f"^{named}"):
        App("shop", env=env, **options).conf  # noqa: B018


def test_an_error_of_unknown_origin_is_not_its_own_cause() -> None:
    # Whoever follows causes would do so for ever.
    with pytest.raises(ValueError, match="Invalid URL") as refused:
        App("shop", web_host="a:80").conf  # noqa: B018
    assert refused.value.__cause__ is None


async def test_a_value_that_librdkafka_refuses_may_come_from_a_setting(lab: Any) -> None:
    app = lab.app(lab.fresh("app"), producer_compression_type="lz5")

    @app.agent(app.topic(lab.topic()))
    async def read(stream):
        async for _ in stream:
            pass

    error = understood(await lab.stopped_by(app))
    assert isinstance(error, Usage)
    assert 'Invalid value "lz5"' in str(error)
    assert "a setting of the app" in error.hint
