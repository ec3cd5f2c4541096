"""The user's options for librdkafka: `-X name=value`, or `KAFKA_…` in the environment.

librdkafka itself refuses unknown options when a client is made. This module refuses options that would break a promise
of this project, and suggests names for misspelled ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .errors import Usage
from .spelling import nearest

__all__ = ["SET_BY_ANABRANCH", "check_options", "check_servers", "nearest_option"]

SET_BY_ANABRANCH = {
    "auto.offset.reset": 'App(…, consumer_auto_offset_reset="latest"), for groups that have committed nothing yet',
    "bootstrap.servers": "-b HOST:PORT",
    "enable.auto.commit": "",
    "enable.auto.offset.store": "",
    "enable.idempotence": 'App(…, processing_guarantee="at_least_once") does without transactions',
    "enable.partition.eof": "",
    "group.id": "it is the app's id: App(ID)",
    "group.instance.id": "it is kept in the data folder: --datadir",
    "group.protocol": "worker --group-protocol",
    "isolation.level": "",
    "partition.assignment.strategy": "",
    "partitioner": "App.topic(…, partitioner=…) declares how keys map to partitions",
    "transactional.id": "it is kept in the data folder: --datadir",
}
"""Options that exactly-once, the order of records or the partition of a key rest on, and what to use instead."""

# Options in common use, among which the nearest is searched.
_NAMES = """
acks api.version.request batch.num.messages batch.size broker.address.family broker.address.ttl check.crcs
client.dns.lookup client.id client.rack compression.codec compression.level compression.type
connections.max.idle.ms debug delivery.timeout.ms fetch.error.backoff.ms fetch.max.bytes
fetch.message.max.bytes fetch.min.bytes fetch.queue.backoff.ms fetch.wait.max.ms heartbeat.interval.ms
linger.ms log.connection.close log_level max.in.flight.requests.per.connection max.partition.fetch.bytes
max.poll.interval.ms message.max.bytes message.send.max.retries message.timeout.ms metadata.max.age.ms
queue.buffering.max.kbytes queue.buffering.max.messages queue.buffering.max.ms queued.max.messages.kbytes
queued.min.messages receive.message.max.bytes reconnect.backoff.max.ms reconnect.backoff.ms request.timeout.ms
retries retry.backoff.ms sasl.kerberos.keytab sasl.kerberos.principal sasl.kerberos.service.name
sasl.mechanism sasl.mechanisms sasl.oauthbearer.config sasl.password sasl.username security.protocol
session.timeout.ms socket.connection.setup.timeout.ms socket.keepalive.enable socket.timeout.ms
ssl.ca.location ssl.certificate.location ssl.cipher.suites ssl.endpoint.identification.algorithm
ssl.key.location ssl.key.password ssl.keystore.location ssl.keystore.password statistics.interval.ms
topic.metadata.refresh.interval.ms transaction.timeout.ms
"""
_KNOWN = tuple(_NAMES.split())

_SERVER = re.compile(r"(?:(?P<scheme>[A-Za-z_]+)://)?(?:\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+)(?::(?P<port>\d+))?/?")
_SCHEMES = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MAX_PORT = 65_535


def check_options(names: Iterable[str]) -> None:
    """Refuse options that this project sets itself.

    Raises:
        Usage: one of them is given.
    """
    for name in names:
        if name in SET_BY_ANABRANCH:
            raise Usage(f"-X {name}: anabranch sets this option itself", hint=SET_BY_ANABRANCH[name] or "omit it")


def check_servers(servers: str) -> None:
    """Check the form of bootstrap servers.

    Raises:
        Usage: one is not `host:port`, or holds a user or a password; the error does not show it.
    """
    if "@" in servers:
        raise Usage(
            "the address of a broker holds a user or a password (not shown here), which Kafka does not take there",
            hint="App(broker_credentials=…), -X sasl.username=… -X sasl.password=…, or KAFKA_SASL_PASSWORD",
        )
    for server in servers.split(","):
        found = _SERVER.fullmatch(server.strip())
        scheme, port = (found["scheme"], found["port"]) if found is not None else (None, None)
        if found is None or (scheme is not None and scheme.upper() not in _SCHEMES):
            raise Usage(f"--bootstrap-server {servers}: {server.strip()!r} is not HOST:PORT", hint="such as kafka:9092")
        if port is not None and not 0 < int(port) <= _MAX_PORT:
            raise Usage(f"--bootstrap-server {servers}: invalid port {port}", hint="such as kafka:9092")


def nearest_option(name: str, given: Mapping[str, str]) -> str:
    """Return a hint for an option that librdkafka refuses: the nearest known name, if there is one."""
    near = nearest(name, [*_KNOWN, *SET_BY_ANABRANCH], cutoff=0.7)
    manual = "librdkafka's CONFIGURATION.md lists names and values (-X name=value, or KAFKA_… in the environment)"
    return f"did you mean {near}? {manual}" if near is not None and near not in given else manual
