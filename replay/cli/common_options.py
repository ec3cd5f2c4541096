"""Options that commands of `anabranch` share, and what they bring about."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import click

from ...topics.cluster import Cluster
from ...topics.errors import Usage
from ...topics.printable import printable, without_passwords
from ..cluster_choice import ClusterChoice, ground, servers_at_hand
from .json_log import log_json_to_stderr, said_as_json

if TYPE_CHECKING:
    from ..cluster_choice import Declares

__all__ = [
    "LEVELS",
    "Packable",
    "app_name",
    "cluster_at_hand",
    "cluster_options",
    "format_options",
    "log_to_stderr",
    "on_ground",
    "pack_option",
    "passing",
]

logger = logging.getLogger("anabranch")

LEVELS = click.Choice(["crit", "error", "warn", "info", "debug"], case_sensitive=False)
Command = Callable[..., Any]

_PACKED = ("lz4", "zstd")


def cluster_options(command: Command) -> Command:
    """-b and -X."""
    command = click.option("-X", "options", multiple=True, metavar="NAME=VALUE", help="librdkafka option, as in kcat.")(
        command
    )
    return click.option(
        "-b",
        "--bootstrap-server",
        metavar="HOST:PORT",
        help="A Kafka cluster. Without it a broker of our own is started.",
    )(command)


def format_options(command: Command) -> Command:
    """What a file's lines mean."""
    for option in (
        click.option("--as-text", is_flag=True, help="Keep CSV cells as text; else numbers and nulls are told apart."),
        click.option(
            "--types",
            metavar="A=T,…|@FILE",
            help="Types of CSV columns: text, int, float, bool; else guessed. A file holds them as a JSON object.",
        ),
        click.option(
            "--null",
            "nulls",
            multiple=True,
            metavar="WORD",
            help="CSV cells that mean null, but in columns declared as text; else empty ones and null.",
        ),
        click.option("--quote", default='"', metavar="C", help="Of CSV cells; '' where there are none."),
        click.option("--partition", metavar="EXPR", help="The record's partition; else its key tells."),
        click.option("--header", "headers", multiple=True, metavar="NAME=EXPR", help="A header; may be repeated."),
        click.option("--time-zone", default="UTC", show_default=True, help="Of times that name none."),
        click.option(
            "--time-format", default="auto", metavar="F", help="auto, iso, s, ms, us, ns, or like %d.%m.%Y %H:%M."
        ),
        click.option("--columns", metavar="A,B,…", help="Names of CSV columns; the file then has no header line."),
        click.option("--delimiter", metavar="C", help="Of CSV cells."),
        click.option(
            "--format",
            "kind",
            type=click.Choice(["auto", "text", "csv", "jsonl", "parquet", "avro"]),
            default="auto",
            show_default=True,
        ),
        click.option("--key-before", metavar="C", help="Text: what stands before the first C is the key."),
        click.option("--encoding", default="utf-8", show_default=True),
    ):
        command = option(command)
    return command


class Packable(click.Command):
    """A command with `--pack [lz4|zstd]`: what follows it is a compression, or not its business."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        said: list[str] = []
        for word in args:
            if said[-1:] == ["--pack"]:
                said.pop()
                said += [f"--pack={word}"] if word in _PACKED else [f"--pack={_PACKED[0]}", word]
            else:
                said.append(word)
        return super().parse_args(ctx, [f"--pack={_PACKED[0]}" if word == "--pack" else word for word in said])


def pack_option(command: Command) -> Command:
    """--pack, of a `Packable` command."""
    return click.option(
        "--pack",
        type=click.Choice(_PACKED),
        metavar="[lz4|zstd]",
        help="Many rows as one message, as columns: many times as fast, for readers that know packed batches.",
    )(command)


def app_name(context: click.Context) -> str:
    """What `-A` named.

    Raises:
        Usage: nothing.
    """
    if not context.obj:
        raise Usage("no app", hint="name it: anabranch -A MODULE …")
    return context.obj


def _options(pairs: tuple[str, ...]) -> dict[str, str]:
    handed_down = tuple(line for line in os.environ.get("ANABRANCH_OPTIONS", "").splitlines() if line)
    return Cluster.parse_options((*handed_down, *pairs))


@contextlib.contextmanager
def on_ground(
    bootstrap_server: str | None, options: tuple[str, ...], app: Declares | None = None, *, keep: bool = True
) -> Generator[ClusterChoice]:
    """A cluster for the length of a `with` block; says so where it is a broker of our own.

    Args:
        app: its `broker` counts where the command line and the environment name none, and its credentials.
    """
    declared, defaults = (None, None) if app is None else (app.declared_broker, app.client_options)
    chosen = _options(options)
    with ground(
        bootstrap_server, chosen, declared=declared, defaults=defaults, keep=keep, on_progress=passing
    ) as place:
        if place.broker is not None:
            stats = place.broker
            passing("")
            _say(
                f"Kafka started in {stats.startup_s:.1f} s at {stats.bootstrap_servers} "
                f"({stats.rss_bytes() / 1e6:.0f} MB, data in {stats.data})"
            )
        yield place


def cluster_at_hand(bootstrap_server: str | None, options: tuple[str, ...]) -> Cluster | None:
    """The cluster that is told or runs already; None where `on_ground` would start one."""
    servers = servers_at_hand(bootstrap_server)
    return Cluster.named(servers, _options(options)) if servers else None


def _say(text: str) -> None:
    if said_as_json() is not None:
        logger.info(text)
    else:
        click.echo(printable(text), err=True)


def passing(text: str) -> None:
    """A line that the next one replaces, where there is a terminal."""
    if sys.stderr.isatty() and said_as_json() is None:
        click.echo(f"\r\033[K{printable(text, one_line=True)}", err=True, nl=False)
    elif text:
        _say(text)


class _Lines(logging.Formatter):
    """Logs for people: what others wrote, in a message or a traceback, does nothing to the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return printable(without_passwords(super().format(record)))


def log_to_stderr(level: str | None, *, default: str = "warn", form: str = "text") -> None:
    """Log at a level, as `text` or `json` lines; others' service life cycles only where they are asked for."""
    numeric = {"crit": logging.CRITICAL, "warn": logging.WARNING}.get(
        (level or default).lower(), getattr(logging, (level or default).upper(), logging.WARNING)
    )
    if form == "json":
        log_json_to_stderr(numeric)
        logger.setLevel(logging.INFO)  # what the text form says without being asked
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=numeric, handlers=[handler])
    # Service life cycles are of interest to who works on us, not to who works with us.
    ours = ("anabranch.agents.app", "anabranch.agents.web.probes", "anabranch.agents.engine.transport")
    for noisy in ("mode", "faust", "aiohttp", *ours):
        logging.getLogger(noisy).setLevel(max(numeric, logging.WARNING) if numeric > logging.DEBUG else numeric)
