"""Which cluster, and how to reach it: the one place where librdkafka's configuration is put together."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .client_options import check_options, check_servers
from .errors import Usage

__all__ = ["Cluster", "is_secret"]

_logger = logging.getLogger("anabranch.librdkafka")

# Said by librdkafka while a new broker loads its coordinators, or ends a dead predecessor's transaction; it asks again.
_NORMAL = ("Coordinator load in progress", "another concurrent operation on the same transaction")


# A client that finds nobody says so several times a second, each time after so many milliseconds.
_AFTER = re.compile(r" \(after .*\)$")
_QUIET_S = 10.0
_MOST = 1_000
_said_s: dict[str, float] = {}


def _worth_reading(record: logging.LogRecord) -> bool:
    text = _AFTER.sub("", record.getMessage())
    if any(normal in text for normal in _NORMAL):
        return False
    if "/bootstrap: " in text and "FAIL" in text:
        return False  # nobody is connected yet: who asked is told
    now_s = time.monotonic()
    if now_s - _said_s.get(text, -_QUIET_S) < _QUIET_S:
        return False
    if len(_said_s) >= _MOST:
        _said_s.clear()
    _said_s[text] = now_s
    return True


_logger.addFilter(_worth_reading)

# KAFKA_SASL_PASSWORD=… stands for sasl.password: the environment of a container is where secrets live.
_ENVIRONMENT_PREFIXES = ("SECURITY_", "SASL_", "SSL_", "CLIENT_")

# Never shown, not even in debug logs.
_SECRETS = ("password", "passphrase", "secret", "key.pem", "certificate.pem", "oauthbearer.config", "sasl.jaas")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Kafka cluster and the options to reach it.

    Attributes:
        bootstrap_servers: `host:port[,host:port…]`.
        options: librdkafka configuration under its own dotted names (TLS, SASL, tuning). They win over what we choose,
            so a user can pass anything through; see librdkafka's CONFIGURATION.md for names and units.
    """

    bootstrap_servers: str
    options: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def named(
        cls,
        bootstrap_servers: str,
        options: Mapping[str, str] | None = None,
        *,
        defaults: Mapping[str, str] | None = None,
    ) -> Cluster:
        """The cluster at `bootstrap_servers`; `options` win over the environment's `KAFKA_*`, these over `defaults`."""
        check_servers(bootstrap_servers)
        environment = {
            name.removeprefix("KAFKA_").lower().replace("_", "."): value
            for name, value in os.environ.items()
            if name.startswith("KAFKA_") and name.removeprefix("KAFKA_").startswith(_ENVIRONMENT_PREFIXES)
        }
        return cls(bootstrap_servers, {**(defaults or {}), **environment, **(options or {})})

    def config(self, **chosen: Any) -> dict[str, Any]:
        """A librdkafka configuration; names use `_` for `.` (`group_id` is `group.id`), callbacks as they are."""
        ours = {name if name.endswith("_cb") else name.replace("_", "."): value for name, value in chosen.items()}
        return {"bootstrap.servers": self.bootstrap_servers, "logger": _logger, **ours, **self.options}

    @property
    def secrets(self) -> list[str]:
        """Values of options that nobody may read."""
        return [value for name, value in self.options.items() if is_secret(name)]

    @staticmethod
    def servers_of(broker: Any) -> str:
        """Bootstrap servers of Faust's `broker` setting: `kafka://host:port`, several with `;` or as a list."""
        urls = broker if isinstance(broker, list | tuple) else str(broker).split(";")
        return ",".join(str(url).split("://")[-1].rstrip("/") for url in urls)

    def __repr__(self) -> str:
        shown = {k: "***" if is_secret(k) else v for k, v in self.options.items()}
        return f"Cluster({self.bootstrap_servers!r}, {shown!r})"

    @staticmethod
    def parse_options(pairs: tuple[str, ...]) -> dict[str, str]:
        """Turn `-X name=value` arguments into options.

        Raises:
            Usage: an argument has no `=`, or is an option that is not the user's to set.
        """
        options: dict[str, str] = {}
        for pair in pairs:
            name, equals, value = pair.partition("=")
            if not equals or not name:
                raise Usage(f"-X {pair}: expected name=value", hint="for example -X security.protocol=SSL")
            options[name] = value
        check_options(options)
        return options


def is_secret(option: str) -> bool:
    """Whether nobody may read the value of an option."""
    return any(part in option for part in _SECRETS)
