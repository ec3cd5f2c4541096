"""Faust's settings: each one is applied, or refused by name before the worker starts.

A setting is given if the program (`App(…)`), a configuration source (`config_from_object`), a handler of
`on_configured`, a later `app.conf.x = …` or the environment sets it. The environment has precedence, as in Faust.
Settings of Faust components that anabranch replaces (the aiokafka clients, the stream buffers, the assignor) have no
effect here. A worker that ignored them would run with other limits, with another partitioner or without credentials;
they are therefore refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Mapping, MutableMapping
from dataclasses import replace
from typing import Any

from faust.auth import SASLCredentials
from faust.exceptions import AlreadyConfiguredWarning
from faust.types.enums import ProcessingGuarantee
from faust.types.settings import Settings as FaustSettings

from ...topics.errors import Usage
from ...topics.spelling import check_options
from ..engine.settings import EngineSettings, check_number

__all__ = ["Settings", "change_settings", "check_names", "check_settings", "client_options", "engine_settings"]

# Setting names of Faust 1.x, which Faust still accepts.
_FORMER = frozenset(
    {
        "client_id",
        "commit_interval",
        "create_reply_topic",
        "default_partitions",
        "num_standby_replicas",
        "replication_factor",
    }
)
_OF_THE_APP = frozenset({"beacon", "config_source", "env", "loop", "settings", "standby_replicas"})

_OWN = "anabranch brings its own"
_EITHER_WAY = "librdkafka needs no version: omit it"
_SENSORS = "no sensor is called; read /metrics of the worker's web port instead"
_IN_TOPICS = "give it to each topic: app.topic(…, {}=…)"

_REFUSED: dict[str, str] = {
    "aerospike_retries_on_exception": "there is no Aerospike store here",
    "aerospike_sleep_seconds_between_retries_on_exception": "there is no Aerospike store here",
    "broker_api_version": _EITHER_WAY,
    "broker_commit_every": "an epoch ends after broker_commit_interval seconds, or when a buffer is full: "
    "settings=EngineSettings(max_outputs=…)",
    "broker_commit_livelock_soft_timeout": "see /readyz and the metric of the oldest epoch instead",
    "broker_rebalance_timeout": "it is broker_max_poll_interval here",
    "ConsumerScheduler": _OWN,
    "consumer_api_version": _EITHER_WAY,
    "consumer_group_instance_id": "a worker keeps a static id of its own in its data folder; give each worker its own "
    "--datadir",
    "crash_app_on_aerospike_exception": "there is no Aerospike store here",
    "Event": _OWN,
    "GlobalTable": _OWN,
    "key_serializer": _IN_TOPICS.format("key_serializer"),
    "LeaderAssignor": _OWN,
    "Monitor": _SENSORS,
    "PartitionAssignor": "partitions are assigned by range, so that tables meet their topics",
    "producer_acks": "every record is acknowledged by all in-sync replicas, as exactly-once needs it",
    "producer_api_version": _EITHER_WAY,
    "producer_partitioner": "keys go by murmur2 as with Java's clients, or by range: "
    "app.topic(…, partitioner=RangePartitioner(…)); send(…, partition=…) names one",
    "producer_threaded": "librdkafka sends in threads of its own",
    "recovery_consistency_check": "it is always made",
    "SetGlobalTable": _OWN,
    "SetTable": _OWN,
    "ssl_context": "librdkafka reads certificates itself: -X security.protocol=SSL -X ssl.ca.location=ca.pem, or "
    "KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CA_LOCATION",
    "store_check_exists": "it is an option of Faust's own stores",
    "stream_buffer_maxsize": "use settings=EngineSettings(backlog_records=…)",
    "stream_processing_timeout": "see /readyz and /metrics for agents that are stuck",
    "stream_recovery_delay": "there is no delay to set",
    "stream_wait_empty": "a rebalance always waits for the current record, or rolls it back",
    "Table": _OWN,
    "tabledir": "tables lie in the data folder: datadir=…",
    "value_serializer": _IN_TOPICS.format("value_serializer"),
    "web_in_thread": "the web server runs in the worker's own loop",
    "web_metrics_enabled": "/metrics is always there",
    "web_stats_enabled": _SENSORS,
}


def _ms(seconds: Any) -> int:
    return round(float(seconds) * 1000)


def _word(value: Any) -> str:
    return "true" if value is True else "false" if value is False else str(value)


_Change = tuple[str, Callable[[Any], Any]]

_ENGINE: dict[str, _Change] = {
    "broker_commit_interval": ("epoch_s", float),
    "broker_max_poll_interval": ("max_poll_interval_ms", _ms),
    "broker_max_poll_records": ("batch_records", int),
    "broker_session_timeout": ("session_timeout_ms", _ms),
    "table_standby_replicas": ("standby_replicas", int),
}
_CONSUMER: dict[str, _Change] = {
    "broker_check_crcs": ("check.crcs", _word),
    "broker_client_id": ("client.id", str),
    "broker_heartbeat_interval": ("heartbeat.interval.ms", _ms),
    "broker_request_timeout": ("socket.timeout.ms", _ms),
    "consumer_connections_max_idle_ms": ("connections.max.idle.ms", int),
    "consumer_max_fetch_size": ("max.partition.fetch.bytes", int),
    "consumer_metadata_max_age_ms": ("topic.metadata.refresh.interval.ms", int),
}
_PRODUCER: dict[str, _Change] = {
    "broker_client_id": ("client.id", str),
    "producer_compression_type": ("compression.type", str),
    "producer_connections_max_idle_ms": ("connections.max.idle.ms", int),
    "producer_linger": ("linger.ms", _ms),
    "producer_linger_ms": ("linger.ms", int),
    "producer_max_batch_size": ("batch.size", int),
    "producer_metadata_max_age_ms": ("topic.metadata.refresh.interval.ms", int),
    "producer_request_timeout": ("request.timeout.ms", _ms),
}


class Settings(FaustSettings):
    """Faust's settings, with a record of which settings were given and which have their defaults.

    Attributes:
        given: names of settings that the program, its configuration or the environment sets.
        changes: number of changes after the app was configured; values derived from settings are recomputed when it
            increases.
    """

    given: set[str]
    changes: int

    def _init_settings(self, kwargs: dict[str, Any]) -> None:
        defaults: Mapping[str, Any] = kwargs.pop("anabranch_defaults", {})
        given = {name for name, value in kwargs.items() if name in self.SETTINGS and value is not None}
        for name, param in self.SETTINGS.items():
            if param.env_name is not None and self.getenv(param.env_name) is not None:
                given.add(name)
        object.__setattr__(self, "given", given)
        object.__setattr__(self, "changes", 0)
        for name, value in defaults.items():
            if kwargs.get(name) is None:
                kwargs[name] = value
        try:
            super()._init_settings(kwargs)
        except Exception as exc:
            named = self._named(exc, kwargs)
            if named is None:
                raise
            raise named from exc

    def _named(self, error: Exception, kwargs: Mapping[str, Any]) -> Usage | None:
        """Return an error that names the setting whose value cannot be read; None if it is not known which.

        Faust's error shows the value alone.
        """
        for name in sorted(self.given):
            param = self.SETTINGS[name]
            try:
                param.prepare_set(self, kwargs[name])
            except Exception as exc:  # noqa: BLE001 - whatever Faust and the standard library raise for a value
                if str(exc) != str(error):
                    continue
                source = f"App({name}=…)"
                if param.env_name is not None and self.getenv(param.env_name) is not None:
                    prefix = f"{self.env_prefix.rstrip('_')}_" if self.env_prefix else ""
                    source = f"{prefix}{param.env_name} in the environment"
                kind = f"{type(error).__name__}: " if isinstance(error, LookupError) else ""
                return Usage(f"{source}: {kind}{error}", hint="docs/settings.md has types and units")
        return None

    def __setattr__(self, key: str, value: Any) -> None:
        super().__setattr__(key, value)
        if key in self.SETTINGS and not object.__getattribute__(self, "_initializing"):
            self.given.add(key)
            object.__setattr__(self, "changes", self.changes + 1)


def check_names(options: Mapping[str, Any], own_classes: Container[str]) -> None:
    """Refuse options of `App(…)` that have no effect.

    Args:
        options: the options by name.
        own_classes: settings of Faust's that name classes, which anabranch replaces by its own.

    Raises:
        TypeError: no setting has this name; the message suggests the most similar name.
        Usage: the option would replace one of anabranch's own classes, or is not supported.
    """
    known = Settings.SETTINGS.keys() | _FORMER | _OF_THE_APP
    for name in options:
        if name in own_classes:
            raise Usage(f"App: {name}=… cannot be replaced", hint=_OWN)
        if name == "monitor":
            raise Usage("App: monitor=… is not supported", hint=_SENSORS)
        check_options("App", [name], known)


def check_settings(settings: Settings) -> None:
    """Refuse all given settings that anabranch cannot apply, in one error.

    Raises:
        Usage: names the settings, with an alternative for each; or a setting has an invalid value.
    """
    refused = sorted(settings.given & _REFUSED.keys())
    if refused:
        # A setting that is given with its default value changes nothing.
        faust = FaustSettings(settings.id, env={})
        refused = [name for name in refused if getattr(settings, name) != getattr(faust, name)]
    if refused:
        hints = "; ".join(f"{name}: {_REFUSED[name]}" for name in refused)
        raise Usage(f"Faust settings that anabranch cannot honour: {', '.join(refused)}", hint=hints)
    for name in ("broker_consumer", "broker_producer"):
        if name in settings.given and getattr(settings, name) != settings.broker:
            raise Usage(f"{name} differs from broker", hint="one transaction cannot span two clusters: set only broker")
    if not settings.topic_partitions:
        raise Usage("topic_partitions=0", hint="a topic has at least one partition")
    if settings.consumer_auto_offset_reset not in ("earliest", "latest"):
        raise Usage(
            f"consumer_auto_offset_reset={settings.consumer_auto_offset_reset!r}", hint="it is earliest or latest"
        )


def change_settings(settings: Settings, changes: Mapping[str, Any]) -> None:
    """Change settings after the program has used them, as the command line does.

    Suppress Faust's warning that values derived from a setting do not change: no values are derived from the settings
    that are changed here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AlreadyConfiguredWarning)
        for name, value in changes.items():
            setattr(settings, name, value)


def _changed(settings: Settings, table: Mapping[str, _Change]) -> dict[str, Any]:
    return {
        name: convert(getattr(settings, setting))
        for setting, (name, convert) in table.items()
        if setting in settings.given and getattr(settings, setting) is not None
    }


def engine_settings(base: EngineSettings, settings: Settings) -> EngineSettings:
    """Return the engine's settings: `base` with the changes from the given Faust settings.

    Raises:
        Usage: a setting is outside of its limits.
    """
    changed = _changed(settings, _ENGINE)
    for setting, (name, _) in _ENGINE.items():
        if name in changed:
            check_number(name, changed[name], called=setting)
    return replace(
        base,
        exactly_once=ProcessingGuarantee(settings.processing_guarantee) == ProcessingGuarantee.EXACTLY_ONCE,
        start_at_end=settings.consumer_auto_offset_reset == "latest",
        consumer_options={**base.consumer_options, **_changed(settings, _CONSUMER)},
        producer_options={**base.producer_options, **_changed(settings, _PRODUCER)},
        **changed,
    )


def client_options(settings: Settings) -> MutableMapping[str, str]:
    """Return librdkafka's options for the program's `broker_credentials`; empty if there are none.

    Raises:
        Usage: the credentials are of a kind that cannot be passed from Python to librdkafka.
    """
    credentials: Any = settings.broker_credentials
    if credentials is None:
        return {}
    if not isinstance(credentials, SASLCredentials) or credentials.ssl_context is not None:
        raise Usage(
            f"broker_credentials: {type(credentials).__name__} with Python's own TLS or tokens cannot reach librdkafka",
            hint="use librdkafka's options instead: -X security.protocol=SASL_SSL -X sasl.mechanism=… "
            "-X ssl.ca.location=ca.pem, or KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_PASSWORD, …",
        )
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": credentials.mechanism.value,
        "sasl.username": credentials.username or "",
        "sasl.password": credentials.password or "",
    }
