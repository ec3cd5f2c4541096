"""Faust's settings are honoured, or refused by name before a worker starts."""

from __future__ import annotations

import ssl
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from anabranch import App
from anabranch.agents import EngineSettings
from anabranch.agents.faust_adapter.faust_settings import _CONSUMER, _ENGINE, _PRODUCER, _REFUSED
from anabranch.agents.runtime import runtime_of
from anabranch.topics.errors import Usage
from faust.sensors import Monitor
from faust.types.settings import Settings

# Honoured elsewhere: by Faust itself, whose classes use them, or by the app.
ELSEWHERE = {
    "agent_supervisor",
    "blocking_timeout",
    "broker",
    "broker_consumer",
    "broker_credentials",
    "broker_producer",
    "cache",
    "canonical_url",
    "consumer_auto_offset_reset",
    "cython_optimizations",
    "datadir",
    "debug",
    "env_prefix",
    "HttpClient",
    "id_format",
    "logging_config",
    "loghandlers",
    "origin",
    "autodiscover",
    "processing_guarantee",
    "producer_max_request_size",
    "Schema",
    "Serializers",
    "store",
    "stream_ack_cancelled_tasks",  # without effect in Faust, too
    "stream_ack_exceptions",
    "stream_publish_on_commit",  # what is sent always waits for the commit
    "table_cleanup_interval",  # without effect: windows close by event time
    "table_key_index_size",  # without effect: keys of windowed tables are always known
    "timezone",
    "url",
    "version",
    "Worker",
}
OWN = {"Agent", "Router", "Stream", "TableManager", "Topic"}


def test_every_setting_of_faust_is_known_to_be_honoured_or_refused() -> None:
    known = ELSEWHERE | OWN | _REFUSED.keys() | _ENGINE.keys() | _CONSUMER.keys() | _PRODUCER.keys()
    by_prefix = {name for name in Settings.SETTINGS if name.startswith(("topic_", "web", "reply_", "worker_"))}
    assert set(Settings.SETTINGS) - known - by_prefix == set()


@pytest.mark.parametrize("name", sorted(_REFUSED.keys() - {"Monitor"}))
def test_a_setting_that_cannot_be_honoured_is_refused_by_name(name: str) -> None:
    values: dict[str, Any] = {
        "ssl_context": ssl.create_default_context(),
        "producer_partitioner": lambda key, every, available: 3,
        "recovery_consistency_check": False,
        "store_check_exists": False,
        "stream_wait_empty": False,
        "crash_app_on_aerospike_exception": False,
        "producer_acks": 1,
        "key_serializer": "json",
        "value_serializer": "raw",
        "tabledir": "elsewhere",
        "PartitionAssignor": "faust.assignor.leader_assignor:LeaderAssignor",
        "Event": "faust.events:EventT",
        "ConsumerScheduler": "faust.transport.utils:TopicBuffer",
    }
    if name[0].isupper():
        value = values.get(name, "collections:OrderedDict")
    else:
        value = values.get(name, True if name.startswith("web_") or name == "producer_threaded" else 77)
    with pytest.raises(Usage, match=name):
        App("refusing", **{name: value}).finalize()


def test_all_refused_settings_are_named_at_once_with_what_to_do_instead() -> None:
    app = App("refusing", stream_buffer_maxsize=1, producer_partitioner=lambda *_: 0)
    with pytest.raises(Usage, match="producer_partitioner, stream_buffer_maxsize") as told:
        app.finalize()
    assert "backlog_records" in str(told.value.hint)


def test_a_setting_written_down_with_its_default_changes_nothing() -> None:
    App("same", stream_wait_empty=True, producer_acks=-1, value_serializer="json").finalize()


def test_client_settings_reach_librdkafka() -> None:
    app = App(
        "clients",
        broker_session_timeout=30.0,
        broker_heartbeat_interval=2.5,
        broker_max_poll_interval=600.0,
        broker_max_poll_records=7,
        broker_client_id="me",
        consumer_max_fetch_size=4096,
        producer_linger=0.25,
        producer_compression_type="zstd",
        table_standby_replicas=2,
    )
    settings = runtime_of(app).settings
    assert (settings.session_timeout_ms, settings.max_poll_interval_ms) == (30_000, 600_000)
    assert (settings.batch_records, settings.standby_replicas) == (7, 2)
    assert settings.consumer_options == {
        "heartbeat.interval.ms": 2_500,
        "client.id": "me",
        "max.partition.fetch.bytes": 4096,
    }
    assert settings.producer_options == {"client.id": "me", "linger.ms": 250, "compression.type": "zstd"}


def test_defaults_of_faust_do_not_replace_ours() -> None:
    app = App("ours")
    assert runtime_of(app).settings == EngineSettings()
    assert app.conf.topic_partitions == 4
    assert app.conf.web_bind == "127.0.0.1"


def test_a_configuration_source_counts_as_the_program_does() -> None:
    app = App("sourced", broker="kafka://program:9092")
    app.config_from_object(
        SimpleNamespace(broker="kafka://source:9092", processing_guarantee="at_least_once", topic_partitions=7)
    )
    assert runtime_of(app).declared_broker == "source:9092"
    assert not runtime_of(app).settings.exactly_once
    assert app.conf.topic_partitions == 7
    refused = App("sourced")
    refused.config_from_object(SimpleNamespace(broker_rebalance_timeout=5.0))
    with pytest.raises(Usage, match="broker_rebalance_timeout"):
        refused.finalize()


def test_a_handler_of_on_configured_and_a_late_change_count() -> None:
    app = App("handled")

    @app.on_configured.connect
    def configure(app: Any, conf: Any, **kwargs: Any) -> None:
        conf.broker = "kafka://handler:9092"
        conf.broker_commit_interval = 0.5

    assert runtime_of(app).declared_broker == "handler:9092"
    assert runtime_of(app).settings.epoch_s == 0.5
    runtime_of(app).configure(broker_commit_interval=2.0)
    assert runtime_of(app).settings.epoch_s == 2.0


def test_the_environment_names_settings_as_in_faust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", "kafka://environment:9092")
    monkeypatch.setenv("PROCESSING_GUARANTEE", "at_least_once")
    monkeypatch.setenv("BROKER_COMMIT_INTERVAL", "1.5")
    app = App("environment", broker="kafka://program:9092")
    assert runtime_of(app).declared_broker == "environment:9092"
    assert not runtime_of(app).settings.exactly_once
    assert runtime_of(app).settings.epoch_s == 1.5
    monkeypatch.setenv("STREAM_BUFFER_MAXSIZE", "1")
    with pytest.raises(Usage, match="stream_buffer_maxsize"):
        App("environment").finalize()


def test_names_of_faust_1_0_still_work() -> None:
    with pytest.warns(FutureWarning):
        app = App("former", commit_interval=0.25, default_partitions=3, num_standby_replicas=1)
        settings = runtime_of(app).settings
    assert (settings.epoch_s, settings.standby_replicas, app.conf.topic_partitions) == (0.25, 1, 3)


def test_a_misspelled_option_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"processing_guarntee.*did you mean processing_guarantee"):
        App("typo", processing_guarntee="at_least_once")
    with pytest.raises(TypeError, match=r"standby_replica.*did you mean standby_replicas"):
        App("typo", standby_replica=1)
    with pytest.raises(TypeError, match="nonsense"):
        App("typo", nonsense=1)


def test_a_misspelled_option_of_an_agent_is_an_error_and_those_of_its_topic_are_not() -> None:
    app = App("typo")
    with pytest.raises(TypeError, match=r"on_failur'.*did you mean on_failure"):
        app.agent(app.topic("orders"), on_failur="fail")(_counted)
    with pytest.raises(TypeError, match="partition"):
        app.agent(app.topic("orders"), partitions=3)(_counted)
    assert app.agent("orders", partitions=3, concurrency=2)(_counted).channel.partitions == 3


async def _counted(stream: Any) -> None:
    async for _ in stream:
        pass


def test_a_topic_whose_offsets_are_not_to_be_committed_is_refused() -> None:
    with pytest.raises(Usage, match="acks=False"):
        App("unacked").topic("orders", acks=False)


@pytest.mark.parametrize("name", sorted(OWN))
def test_classes_of_the_engine_cannot_be_replaced(name: str) -> None:
    with pytest.raises(Usage, match=name):
        App("classes", **{name: object})


def test_sensors_are_refused() -> None:
    with pytest.raises(Usage, match="monitor"):
        App("sensing", monitor=Monitor())
    with pytest.raises(Usage, match="Monitor"):
        App("sensing", Monitor="faust.sensors.base:Sensor").finalize()
    app = App("sensing")
    app.sensors.add(faust.Sensor())
    with pytest.raises(Usage, match="sensors"):
        app.finalize()


def test_a_signal_that_is_never_sent_cannot_be_waited_for() -> None:
    app = App("signals")

    @app.on_produce_message.connect
    def add(app: Any, **kwargs: Any) -> None:
        """Would add a header."""

    with pytest.raises(Usage, match="on_produce_message"):
        app.finalize()
    App("other").finalize()  # another app's handler is not its own


def test_an_app_does_not_inherit_the_handlers_of_one_that_had_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(App, "__hash__", lambda app: 7, raising=False)
    told: list[str] = []
    old = App("gone")
    old.on_produce_message.connect(lambda *args, **options: told.append("gone"))
    old.on_configured.connect(lambda *args, **options: told.append("gone"))
    new = App("new")
    new.on_configured.connect(lambda *args, **options: told.append("new"))
    new.finalize()
    assert told == ["new"]


def test_credentials_become_options_of_every_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    credentials = faust.SASLCredentials(username="ann", password="s3cret", mechanism="SCRAM-SHA-512")
    app = App("secured", broker="kafka://secured:9092", broker_credentials=credentials)
    config = runtime_of(app).cluster.config()
    assert config["bootstrap.servers"] == "secured:9092"
    assert config["security.protocol"] == "SASL_PLAINTEXT"
    assert (config["sasl.mechanism"], config["sasl.username"]) == ("SCRAM-SHA-512", "ann")
    assert config["sasl.password"] == "s3cret"
    assert "s3cret" not in repr(runtime_of(app).cluster)
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "other")
    again = App("secured", broker="kafka://secured:9092", broker_credentials=credentials)
    assert runtime_of(again).cluster.config()["sasl.password"] == "other"


@pytest.mark.parametrize(
    "credentials",
    [
        ssl.create_default_context(),
        faust.SSLCredentials(ssl.create_default_context()),
        faust.SASLCredentials(username="ann", password="x", ssl_context=ssl.create_default_context()),
        faust.GSSAPICredentials(),
    ],
    ids=["context", "SSL", "SASL_SSL", "GSSAPI"],
)
def test_credentials_that_librdkafka_cannot_take_are_refused(credentials: Any) -> None:
    app = App("secured", broker_credentials=credentials)
    with pytest.raises(Usage, match="broker_credentials"):
        _ = runtime_of(app).client_options


def test_manual_acknowledgements_are_refused() -> None:
    app = App("acks")
    topic = app.topic("acks")
    with pytest.raises(Usage, match="noack"):
        topic.stream().noack()
    with pytest.raises(Usage, match="noack_take"):
        topic.stream().noack_take(3, within=1)
