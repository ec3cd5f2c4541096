"""Logs of the commands on stderr: lines of text for people, or one JSON object a line for machines.

A line of JSON has these fields:

| field | content |
| --- | --- |
| `time` | ISO 8601, UTC, milliseconds |
| `level`, `logger`, `message` | the same as in the text form |
| `group`, `pid` | the consumer group, and the process |
| `topic`, `partition`, `offset`, `agent`, `generation`, `partitions`, `seconds`, `hint` | what the line is about |
| `error` | the traceback, where there is one |

Neither form contains passwords, and control characters are escaped. JSON lines also hide the values of secret client
options, whichever library logged them.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from ...topics.printable import printable, utf8, without_passwords

__all__ = ["JsonFormatter", "TextFormatter", "json_formatter", "log_to_stderr"]

FIELDS = ("topic", "partition", "offset", "agent", "generation", "partitions", "seconds", "hint")

_SHORTEST_SECRET = 4  # hiding a shorter value would mask parts of ordinary words

# Loggers that report each service's start and stop, which matters only to developers of anabranch.
_LIFE_CYCLE_LOGGERS = (
    "mode",
    "faust",
    "aiohttp",
    "anabranch.agents.app",
    "anabranch.agents.web.web_server",
    "anabranch.agents.faust_adapter.transport",
)


class TextFormatter(logging.Formatter):
    """Formats log records for people: control characters in messages and tracebacks are escaped, passwords hidden."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted record."""
        return printable(without_passwords(super().format(record)))


class JsonFormatter(logging.Formatter):
    """Formats a log record as a line of JSON.

    Attributes:
        constant_fields: fields that every line has.
    """

    def __init__(self) -> None:
        super().__init__()
        self.constant_fields: dict[str, object] = {"pid": os.getpid()}
        self._secrets: list[str] = []

    def hide(self, secrets: Iterable[str]) -> None:
        """Replace these values by `***` in every line from now on."""
        self._secrets += [secret for secret in secrets if len(secret) >= _SHORTEST_SECRET]

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON, without a line end."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._clean(record.getMessage()),
            **self.constant_fields,
        }
        for name in FIELDS:
            if (value := getattr(record, name, None)) is not None:
                line[name] = self._clean(value) if isinstance(value, str) else value
        if record.exc_info:
            line["error"] = self._clean(self.formatException(record.exc_info))
        return printable(msgspec.json.encode(line, enc_hook=str).decode())

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return without_passwords(utf8(text))


def json_formatter() -> JsonFormatter | None:
    """Return the formatter in use if logs are JSON, else None."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter):
            return handler.formatter
    return None


def log_to_stderr(level: str | None, *, default: str = "warn", form: str = "text") -> None:
    """Log to stderr.

    Args:
        level: `crit`, `error`, `warn`, `info` or `debug`; None means `default`.
        form: `text` or `json`.
    """
    numeric = {"crit": logging.CRITICAL, "warn": logging.WARNING}.get(
        (level or default).lower(), getattr(logging, (level or default).upper(), logging.WARNING)
    )
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(JsonFormatter())
        logging.captureWarnings(True)
        # What commands print in text form, such as "ready", is logged at INFO in JSON form, whatever the level.
        logging.getLogger("anabranch").setLevel(logging.INFO)
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=numeric, handlers=[handler])
    quiet = max(numeric, logging.WARNING) if numeric > logging.DEBUG else numeric
    for name in _LIFE_CYCLE_LOGGERS:
        logging.getLogger(name).setLevel(quiet)
