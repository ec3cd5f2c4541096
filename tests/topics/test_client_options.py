"""Mistyped librdkafka options and addresses: the error names the option and the remedy."""

from __future__ import annotations

import errno
import os

import pytest
from anabranch.topics.admin import Admin
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Stop, Usage, understood
from confluent_kafka import KafkaException, Producer


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"client.id": "x", "nonsense": "1"}, ["-X nonsense:", "no such option"]),
        ({"sesion.timeout.ms": "1"}, ["-X sesion.timeout.ms", "did you mean session.timeout.ms?"]),
        ({"linger.ms": "abc"}, ["-X linger.ms=abc", "Invalid value"]),
        ({"linger.ms": "-1000000"}, ["-X linger.ms=-1000000"]),
        ({"security.protocol": "TLS"}, ["-X security.protocol=TLS"]),
        (
            {"ssl.key.password": "secret", "ssl.ca.location": "/not/there.pem", "security.protocol": "SSL"},
            ["not/there"],
        ),
    ],
)
def test_an_option_that_librdkafka_does_not_take_is_named(options, words):
    with pytest.raises(Usage) as refused:
        Admin(Cluster("localhost:1", options))
    assert all(word in str(refused.value) for word in words), refused.value
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["group.id", "isolation.level", "auto.offset.reset", "partitioner", "transactional.id"]
)
def test_options_that_promises_rest_on_are_not_the_users_to_set(name):
    with pytest.raises(Usage, match="anabranch sets this option itself"):
        Cluster.parse_options((f"{name}=x",))


@pytest.mark.parametrize(
    "servers", ["localhost:99999", "localhost:0", "localhost:", "http://localhost:9092", "a:1,,b:2", "a b:1", ":9092"]
)
def test_what_is_no_address_is_refused_at_once(servers):
    with pytest.raises(Usage, match="--bootstrap-server"):
        Cluster.named(servers)


@pytest.mark.parametrize("servers", ["kafka", "kafka:9092", "a:1,b:2", "[::1]:9092", "SSL://kafka:9093", "10.0.0.1:1"])
def test_addresses_in_all_forms_pass(servers):
    assert Cluster.named(servers).bootstrap_servers == servers


def test_a_host_without_an_address_is_named_without_talk_of_passwords():
    with pytest.raises(Stop) as refused:
        Admin(Cluster("no-such-host.invalid:9092")).partitions(timeout_s=1.0)
    assert "cannot resolve 'no-such-host.invalid:9092'" in str(refused.value)
    assert "check the name" in refused.value.hint
    assert "sasl" not in str(refused.value)


def test_what_ends_a_command_from_outside_is_one_line_and_a_hint():
    full = understood(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/LOCK"))
    assert str(full).splitlines()[0] == "/data/LOCK: No space left on device"
    assert "free space" in str(full)
    assert "another folder" in str(understood(PermissionError(errno.EROFS, "", "/data")))
    assert "ulimit" in str(understood(OSError(errno.EMFILE, "")))
    assert understood(ValueError("a mistake of ours")) is None
    with pytest.raises(KafkaException) as refused:
        Producer({"enable.idempotence": "true", "acks": "0"})
    assert isinstance(understood(refused.value), Usage)
