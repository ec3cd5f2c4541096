"""Cluster settings from arguments, `-X` and the environment; secrets are never shown."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from anabranch.topics import client_watchdog
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Usage


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("KAFKA_")]:
        monkeypatch.delenv(name)


def test_keyword_names_become_librdkafkas() -> None:
    config = Cluster("h:1").config(group_id="g", enable_auto_commit=False)
    assert config["bootstrap.servers"] == "h:1"
    assert config["group.id"] == "g"
    assert config["enable.auto.commit"] is False
    assert isinstance(config["logger"], logging.Logger)


def test_what_the_user_says_wins_over_what_we_choose() -> None:
    cluster = Cluster("h:1", {"session.timeout.ms": "45000"})
    assert cluster.config(session_timeout_ms=10_000)["session.timeout.ms"] == "45000"


def test_librdkafka_takes_the_configuration_of_each_client() -> None:
    cluster = Cluster("127.0.0.1:1", {"log_level": "0"})
    cluster.consumer(group_id="g").close()
    cluster.producer(transactional_id="t").purge()
    cluster.admin().poll(0)


class Instead(Cluster):
    """A cluster whose clients are somebody else's."""

    def admin(self, **chosen: object) -> Any:
        return SimpleNamespace(list_topics=lambda timeout: SimpleNamespace(brokers={1: "in memory"}))


def test_a_subclass_replaces_the_clients_also_where_options_are_added() -> None:
    cluster = Instead("nowhere:1")
    assert type(cluster.with_options({"log_level": "0"})) is Instead
    assert client_watchdog.answers(cluster)
    assert not client_watchdog.answers(Cluster("127.0.0.1:1", {"log_level": "0"}))


def test_the_environment_speaks_librdkafkas_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "s3cret")
    monkeypatch.setenv("KAFKA_SSL_CA_LOCATION", "/ca.pem")
    monkeypatch.setenv("KAFKA_CLIENT_ID", "me")
    assert Cluster.named("h:1").options == {
        "security.protocol": "SASL_SSL",
        "sasl.password": "s3cret",
        "ssl.ca.location": "/ca.pem",
        "client.id": "me",
    }


def test_what_brokers_and_containers_have_in_their_environment_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_HEAP_OPTS", "KAFKA_LOG_RETENTION_MS", "SASL_PASSWORD"):
        monkeypatch.setenv(name, "x")
    assert Cluster.named("h:1").options == {}


def test_options_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "environment")
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "PLAIN")
    options = Cluster.named("h:1", {"sasl.username": "argument"}).options
    assert options == {"sasl.username": "argument", "sasl.mechanism": "PLAIN"}


def test_x_takes_names_and_values_and_later_ones_win() -> None:
    pairs = ("linger.ms=5", "sasl.password=a=b==", "empty=", "linger.ms=7")
    assert Cluster.parse_options(pairs) == {"linger.ms": "7", "sasl.password": "a=b==", "empty": ""}
    assert Cluster.parse_options(()) == {}


@pytest.mark.parametrize("pair", ["linger.ms", "", "=5"])
def test_x_without_a_name_or_a_value_says_what_is_expected(pair: str) -> None:
    with pytest.raises(Usage, match="expected name=value"):
        Cluster.parse_options((pair,))


SECRETS = [
    "sasl.password",
    "ssl.key.password",
    "ssl.keystore.password",
    "ssl.key.pem",
    "ssl.certificate.pem",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.assertion.private.key.passphrase",
]


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_never_shown(name: str) -> None:
    cluster = Cluster("h:1", {name: "s3cret", "security.protocol": "SASL_SSL"})
    for shown in (repr(cluster), str(cluster), f"{cluster}", f"{[cluster]}", f"{cluster!a}"):
        assert "s3cret" not in shown
        assert name in shown
        assert "SASL_SSL" in shown
    assert cluster.config()[name] == "s3cret"


def test_what_a_client_says_again_and_again_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    logger = Cluster("h:1").config()["logger"]
    for milliseconds in range(5):
        for where in ("one:1", "two:1"):
            logger.error("FAIL [thrd:%s]: %s: refused (after %dms in state CONNECT)", where, where, milliseconds)
    assert ["one" in text for text in caplog.messages] == [True, False]
