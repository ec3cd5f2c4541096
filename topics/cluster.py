"""A Kafka cluster, how to reach it, and its clients.

This is the only file that makes Kafka clients (`tests/test_tidy.py`). A test replaces all of them at once with a
subclass of `Cluster` that returns its own from `consumer`, `producer` and `admin`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from confluent_kafka import Consumer, Producer

from . import clock
from .client_options import check_options, check_servers
from .errors import Usage
from .printable import hide_secrets

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

__all__ = ["PRODUCER_DEFAULTS", "Cluster", "environment_options", "is_secret"]

_logger = logging.getLogger("anabranch.librdkafka")

# librdkafka logs these while a new broker loads its coordinators or ends a dead producer's transaction; it retries.
_NORMAL = (
    "Coordinator load in progress",
    "Not coordinator: retrying",
    "another concurrent operation on the same transaction",
)

# A client that reaches no broker logs it several times a second, each time with another number of milliseconds.
_AFTER = re.compile(r" \(after .*\)$")
_QUIET_S = 10.0
_MOST = 1_000
_logged_s: dict[str, float] = {}


def _worth_reading(record: logging.LogRecord) -> bool:
    text = _AFTER.sub("", record.getMessage())
    if any(normal in text for normal in _NORMAL):
        return False
    if "/bootstrap: " in text and "FAIL" in text:
        return False  # no connection yet: the caller gets the error
    now_s = clock.now_s()
    if now_s - _logged_s.get(text, -_QUIET_S) < _QUIET_S:
        return False
    if len(_logged_s) >= _MOST:
        _logged_s.clear()
    _logged_s[text] = now_s
    return True


_logger.addFilter(_worth_reading)

# KAFKA_SASL_PASSWORD=… means sasl.password: containers get secrets in their environment.
_ENVIRONMENT_PREFIXES = ("SECURITY_", "SASL_", "SSL_", "CLIENT_")

# Never shown, not even in debug logs.
_SECRETS = ("password", "passphrase", "secret", "key.pem", "certificate.pem", "oauthbearer.config", "sasl.jaas")


# Producers share these. Java's producers hash keys with murmur2, so a key's partition is the same for both.
PRODUCER_DEFAULTS: Mapping[str, object] = {
    "partitioner": "murmur2_random",
    "compression_type": "lz4",
    "linger_ms": 5,
    "enable_idempotence": True,
    # The request around a record of a million bytes is a little larger than the record; brokers take 1,048,588.
    "message_max_bytes": 1_048_576,
    "queue_buffering_max_messages": 500_000,
    "queue_buffering_max_kbytes": 262_144,
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Kafka cluster and the options to reach it.

    Attributes:
        bootstrap_servers: `host:port[,host:port…]`.
        options: librdkafka configuration under its own dotted names (TLS, SASL, tuning). They win over the defaults of
            this project; see librdkafka's CONFIGURATION.md for names and units.
    """

    bootstrap_servers: str
    options: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        hide_secrets(self.secrets)

    @classmethod
    def named(
        cls,
        bootstrap_servers: str,
        options: Mapping[str, str] | None = None,
        *,
        defaults: Mapping[str, str] | None = None,
    ) -> Cluster:
        """Return the cluster at `bootstrap_servers`.

        `options` win over `KAFKA_*` of the environment, and these over `defaults`.
        """
        check_servers(bootstrap_servers)
        return cls(bootstrap_servers, {**(defaults or {}), **environment_options(), **(options or {})})

    def with_options(self, options: Mapping[str, str]) -> Self:
        """Return the same cluster, reached with more options; they win over those that it has."""
        return replace(self, options={**self.options, **options})

    def consumer(self, **chosen: object) -> Consumer:
        """Make a consumer that commits no offsets by itself.

        Args:
            chosen: librdkafka configuration as in `config`; `group_id` is required.
        """
        return Consumer(self.config(**{"enable_auto_commit": False, **chosen}))

    def producer(self, **chosen: object) -> Producer:
        """Make an idempotent producer that hashes keys with murmur2 and compresses with LZ4.

        Args:
            chosen: librdkafka configuration as in `config`; it wins over these defaults.
        """
        return Producer(self.config(**{**PRODUCER_DEFAULTS, **chosen}))

    def admin(self, **chosen: object) -> AdminClient:
        """Make an admin client.

        Args:
            chosen: librdkafka configuration as in `config`.
        """
        from confluent_kafka.admin import AdminClient  # 10 ms, and not every command needs one

        return AdminClient(self.config(**chosen))

    def config(self, **chosen: object) -> dict[str, Any]:
        """Return a librdkafka configuration.

        Args:
            chosen: options, with `_` for `.` in their names (`group_id` is `group.id`); names of callbacks (`error_cb`)
                stay as they are. The cluster's own options win over them.
        """
        named = {name if name.endswith("_cb") else name.replace("_", "."): value for name, value in chosen.items()}
        return {"bootstrap.servers": self.bootstrap_servers, "logger": _logger, **named, **self.options}

    @property
    def secrets(self) -> list[str]:
        """The values of options that must not be shown."""
        return [value for name, value in self.options.items() if is_secret(name)]

    @staticmethod
    def servers_of(broker: Any) -> str:
        """Return the bootstrap servers of Faust's `broker`: `kafka://host:port`, several with `;` or as a list.

        Raises:
            Usage: a URL holds a user or a password.
        """
        urls = broker if isinstance(broker, list | tuple) else str(broker).split(";")
        servers = ",".join(str(url).split("://")[-1].rstrip("/") for url in urls)
        if "@" in servers:
            check_servers(servers)
        return servers

    def __repr__(self) -> str:
        shown = {k: "***" if is_secret(k) else v for k, v in self.options.items()}
        return f"Cluster({self.bootstrap_servers!r}, {shown!r})"

    @staticmethod
    def parse_options(pairs: tuple[str, ...]) -> dict[str, str]:
        """Parse `-X name=value` arguments.

        Raises:
            Usage: an argument has no `=`, or sets an option that this project sets itself.
        """
        options: dict[str, str] = {}
        for pair in pairs:
            name, equals, value = pair.partition("=")
            if not equals or not name:
                raise Usage(f"-X {pair}: expected name=value", hint="for example -X security.protocol=SSL")
            options[name] = value
        check_options(options)
        return options


def environment_options() -> dict[str, str]:
    """Return the options that the environment sets: `KAFKA_SECURITY_PROTOCOL` is `security.protocol`."""
    return {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in os.environ.items()
        if name.startswith("KAFKA_") and name.removeprefix("KAFKA_").startswith(_ENVIRONMENT_PREFIXES)
    }


def is_secret(option: str) -> bool:
    """Return whether the value of an option must not be shown."""
    return any(part in option for part in _SECRETS)
