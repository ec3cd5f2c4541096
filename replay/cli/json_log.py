"""Logs for machines: one JSON object a line.

| field | content |
| --- | --- |
| `time` | ISO 8601, UTC, milliseconds |
| `level`, `logger`, `message` | as in the text |
| `group`, `pid` | the consumer group, and the process |
| `topic`, `partition`, `offset`, `agent`, `generation`, `partitions`, `seconds`, `hint` | what the line is about |
| `error` | the traceback, where there is one |

The values of options that are secrets are never in it, whoever wrote them into a message.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from ...topics.printable import printable, utf8, without_passwords

__all__ = ["JsonLines"]

FIELDS = ("topic", "partition", "offset", "agent", "generation", "partitions", "seconds", "hint")

_MANGLED = 4  # shorter values than this would take letters out of everything


class JsonLines(logging.Formatter):
    """Formats a log record as a line of JSON.

    Attributes:
        always: fields of every line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.always: dict[str, Any] = {"pid": os.getpid()}
        self._secrets: list[str] = []

    def hide(self, secrets: Iterable[str]) -> None:
        """Values that are replaced by `***`."""
        self._secrets += [secret for secret in secrets if len(secret) >= _MANGLED]

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._clean(record.getMessage()),
            **self.always,
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


def said_as_json() -> JsonLines | None:
    """The formatter in force, where logs are JSON."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonLines):
            return handler.formatter
    return None


def log_json_to_stderr(level: int) -> None:
    """Let everything that is logged be JSON, at this level."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(True)
