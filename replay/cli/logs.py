"""Logs of the commands on stderr: lines of text for people, or one JSON object a line for machines.

A line of JSON has these fields:

| field | content |
| --- | --- |
| `time` | ISO 8601, UTC, milliseconds |
| `level`, `logger`, `message` | the same as in the text form |
| `group`, `pid` | the consumer group, and the process |
| `topic`, `partition`, `offset`, `agent`, `generation`, `partitions`, `seconds`, `hint` | what the line is about |
| `error` | the traceback, where there is one |

Neither form contains passwords nor the values of secret client options, whichever library logged them, and control
characters are escaped. Where texts of exceptions may quote a private field, they are hidden, in tracebacks, too
(`topics/private_texts.py`).
"""

from __future__ import annotations

import copy
import logging
import os
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import TypeAlias

import click
import msgspec

from ...topics.errors import formatted_traceback, message_of
from ...topics.printable import printable, utf8, without_passwords
from ...topics.private_texts import HIDDEN_TEXT, chained, hides_texts

__all__ = ["JsonFormatter", "TextFormatter", "json_formatter", "log_to_stderr", "marked"]

FIELDS = ("topic", "partition", "offset", "agent", "generation", "partitions", "seconds", "hint")

# Loggers that report each service's start and stop, which matters only to developers of anabranch.
_LIFE_CYCLE_LOGGERS = (
    "mode",
    "faust",
    "aiohttp",
    "anabranch.agents.app",
    "anabranch.agents.web.web_server",
    "anabranch.agents.faust_adapter.transport",
    "anabranch.agents.faust_adapter.unsampled_monitor",
)


_ExcInfo: TypeAlias = "tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]"


def marked(text: str, fg: str | None = None, *, bold: bool = False) -> str:
    """Return a text for `click.echo` or a terminal in a colour, unless $NO_COLOR forbids it.

    `echo` removes the colour where the output is no terminal.
    """
    if (fg is None and not bold) or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, fg=fg, bold=bold or None)


class TextFormatter(logging.Formatter):
    """Formats log records for people: control characters in messages and tracebacks are escaped, passwords hidden.

    Args:
        form: as for `logging.Formatter`.
        colours: mark the level of warnings and errors, for a terminal.
    """

    def __init__(self, form: str = "%(asctime)s %(levelname)s %(name)s: %(message)s", *, colours: bool = False) -> None:
        super().__init__(form)
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted record."""
        text = printable(without_passwords(super().format(_shown(record))))
        if not self._colours or record.levelno < logging.WARNING:
            return text
        colour = "red" if record.levelno >= logging.ERROR else "yellow"
        return text.replace(f" {record.levelname} ", f" {marked(record.levelname, colour)} ", 1)

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 (logging's name)
        """Return the traceback of an exception."""
        return _traceback(ei) or super().formatException(ei)


class JsonFormatter(logging.Formatter):
    """Formats a log record as a line of JSON.

    Attributes:
        constant_fields: fields that every line has.
    """

    def __init__(self) -> None:
        super().__init__()
        self.constant_fields: dict[str, object] = {"pid": os.getpid()}

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON, without a line end."""
        record = _shown(record)
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _clean(record.getMessage()),
            **self.constant_fields,
        }
        for name in FIELDS:
            if (value := getattr(record, name, None)) is not None:
                line[name] = _clean(value) if isinstance(value, str) else value
        if record.exc_info:
            line["error"] = _clean(_traceback(record.exc_info) or self.formatException(record.exc_info))
        return printable(msgspec.json.encode(line, enc_hook=str).decode())


def _clean(text: str) -> str:
    return without_passwords(utf8(text))


def _traceback(info: _ExcInfo) -> str:
    """Return a traceback without texts that may quote a private field; empty if such texts are not hidden."""
    return formatted_traceback(info[1]) if hides_texts() and info[1] is not None else ""


def _shown(record: logging.LogRecord) -> logging.LogRecord:
    """Return a record whose message and traceback have no text of an exception that may quote a private field."""
    if not hides_texts():
        return record
    shown = copy.copy(record)
    shown.exc_text = None  # what another handler has formatted
    if isinstance(record.args, tuple):
        shown.args = tuple(_Described(arg) if isinstance(arg, BaseException) else arg for arg in record.args)
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:  # asyncio logs "… exception=ValueError('…')"
        text = shown.getMessage()
        for each in chained(error):
            if message_of(each) != str(each):
                for quoted in {repr(each), str(each)} - {""}:
                    text = text.replace(quoted, HIDDEN_TEXT)
        shown.msg, shown.args = text, None
    return shown


class _Described:
    """An exception as an argument of a log message."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __str__(self) -> str:
        return message_of(self._error)

    def __repr__(self) -> str:
        return f"{type(self._error).__name__}({message_of(self._error)!r})"


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
        handler.setFormatter(TextFormatter(colours=sys.stderr.isatty()))
    logging.basicConfig(level=numeric, handlers=[handler])
    quiet = max(numeric, logging.WARNING) if numeric > logging.DEBUG else numeric
    for name in _LIFE_CYCLE_LOGGERS:
        logging.getLogger(name).setLevel(quiet)
