"""Options that several commands share, and the cluster that they choose."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, TypedDict, TypeVar

import click

from ...topics.errors import Usage
from ...topics.printable import printable
from .logs import json_formatter

if TYPE_CHECKING:
    from ...topics.cluster import Cluster
    from ...topics.devbroker.broker import BrokerStats
    from ..app_loader import Runtime
    from ..cluster_choice import ClusterChoice, ClusterDeclaration

__all__ = [
    "LEVELS",
    "CommandFunction",
    "CommandWithPack",
    "FormatOptions",
    "allow_late_option",
    "announce_start",
    "app_name",
    "bad_line_option",
    "choose_cluster",
    "cluster_options",
    "format_options",
    "named_app",
    "pack_option",
    "running_cluster",
    "show_private_option",
    "status_line",
]

logger = logging.getLogger("anabranch")

LEVELS = click.Choice(["crit", "error", "warn", "info", "debug"], case_sensitive=False)

CommandFunction = TypeVar("CommandFunction", bound=Callable[..., object])

_COMPRESSIONS = ("lz4", "zstd")


def cluster_options(command: CommandFunction) -> CommandFunction:
    """Add `-b` and `-X` to a command."""
    command = click.option(
        "-X", "options", multiple=True, metavar="NAME=VALUE", help="librdkafka option, as in kcat; repeatable."
    )(command)
    return click.option(
        "-b",
        "--bootstrap-server",
        metavar="HOST:PORT",
        help="Kafka cluster.  [default: $KAFKA_BOOTSTRAP_SERVERS, a file (see `config`), the app's broker, or an "
        "embedded one]",
    )(command)


def show_private_option(command: CommandFunction) -> CommandFunction:
    """Add `--show-private` to a command."""

    def chosen(_: click.Context, __: click.Parameter, value: bool) -> None:
        if value:
            from ...topics.private_texts import show

            show()

    return click.option(
        "--show-private",
        is_flag=True,
        expose_value=False,
        callback=chosen,
        help="Show private fields, which are hidden otherwise; see docs/privacy.md.",
    )(command)


def bad_line_option(description: str) -> Callable[[CommandFunction], CommandFunction]:
    """Return a decorator that adds `--on-bad-line` to a command."""
    return click.option(
        "--on-bad-line",
        type=click.Choice(["fail", "skip", "dead-letter"]),
        default="fail",
        show_default=True,
        help=description,
    )


allow_late_option = click.option(
    "--allow-late", is_flag=True, help="Send records that would be late for windows of apps that have read the topic."
)


class FormatOptions(TypedDict):
    """Values of the options that `format_options` adds."""

    kind: str
    encoding: str
    key_before: str | None
    delimiter: str | None
    columns: str | None
    time_format: str
    time_zone: str
    headers: tuple[str, ...]
    partition: str | None
    quote: str
    nulls: tuple[str, ...]
    types: str | None
    as_text: bool


def format_options(command: CommandFunction) -> CommandFunction:
    """Add the options that describe the format of files to a command; its parameters for them are `FormatOptions`."""
    for option in (
        click.option("--as-text", is_flag=True, help="Read all CSV cells as text; do not infer numbers and nulls."),
        click.option(
            "--types",
            metavar="A=T,…|@FILE",
            help="Types of CSV columns: text, int, float or bool. @FILE names a JSON object.  [default: inferred]",
        ),
        click.option(
            "--null",
            "nulls",
            multiple=True,
            metavar="WORD",
            help='CSV cell that means null, except in columns declared as text; repeatable.  [default: "", null]',
        ),
        click.option("--quote", default='"', metavar="C", help="Quote character of CSV cells; '' disables quoting."),
        click.option("--partition", metavar="EXPR", help="Partition of the record.  [default: chosen by its key]"),
        click.option(
            "--header", "headers", multiple=True, metavar="NAME=EXPR", help="Header of the record; repeatable."
        ),
        click.option("--time-zone", default="UTC", show_default=True, help="Time zone of times that do not name one."),
        click.option(
            "--time-format",
            default="auto",
            metavar="F",
            show_default=True,
            help="auto, iso, s, ms, us, ns, or a pattern such as %d.%m.%Y %H:%M.",
        ),
        click.option("--columns", metavar="A,B,…", help="Names of CSV columns, for files without a header line."),
        click.option("--delimiter", metavar="C", help="Delimiter of CSV cells.  [default: , or a tab for .tsv]"),
        click.option(
            "--format",
            "kind",
            type=click.Choice(["auto", "text", "csv", "jsonl", "parquet", "avro"]),
            default="auto",
            show_default=True,
            help="File format; auto chooses it by the file extension.",
        ),
        click.option("--key-before", metavar="C", help="Text: the key is the part of the line before the first C."),
        click.option("--encoding", default="utf-8", show_default=True, help="Encoding of text files."),
    ):
        command = option(command)
    return command


class CommandWithPack(click.Command):
    """A command with the option `--pack [lz4|zstd]`, whose value may be omitted.

    A word after `--pack` is its value only if it names a compression; otherwise it is the next argument.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give each `--pack` its value, then parse the arguments."""
        given: list[str] = []
        for word in args:
            if given[-1:] == ["--pack"]:
                given.pop()
                given += [f"--pack={word}"] if word in _COMPRESSIONS else [f"--pack={_COMPRESSIONS[0]}", word]
            else:
                given.append(word)
        return super().parse_args(ctx, [f"--pack={_COMPRESSIONS[0]}" if word == "--pack" else word for word in given])


def pack_option(command: CommandFunction) -> CommandFunction:
    """Add `--pack` to a `CommandWithPack`."""
    return click.option(
        "--pack",
        type=click.Choice(_COMPRESSIONS),
        metavar="[lz4|zstd]",
        help="Send packed batches: many rows as columns in one message. Much faster; consumers must support it.",
    )(command)


def app_name(context: click.Context) -> str:
    """Return the app that `-A` names.

    Raises:
        Usage: `-A` was not given.
    """
    if not context.obj:
        raise Usage("no app given", hint='anabranch -A MODULE …, or app = "MODULE" in anabranch.toml')
    return context.obj


def named_app(context: click.Context) -> Runtime | None:
    """Load the app of a command that also works without one; returns its runtime, None if no app is named.

    Raises:
        Usage: the app cannot be loaded.
    """
    if not context.obj:
        return None
    from ..app_loader import load_app, runtime_of  # imports Faust, which these commands do not need otherwise

    return runtime_of(load_app(context.obj))


def _client_options(pairs: tuple[str, ...]) -> dict[str, str]:
    """Parse `NAME=VALUE` pairs of the command line and, before them, those that a parent process passed on."""
    from ...topics.cluster import Cluster

    inherited = tuple(line for line in os.environ.get("ANABRANCH_OPTIONS", "").splitlines() if line)
    return Cluster.parse_options((*inherited, *pairs))


@contextlib.contextmanager
def choose_cluster(
    bootstrap_server: str | None, options: tuple[str, ...], app: ClusterDeclaration | None = None, *, keep: bool = True
) -> Generator[ClusterChoice]:
    """Yield the cluster that a command works on; start an embedded broker, and say so, if none is configured.

    Args:
        bootstrap_server: value of `--bootstrap-server`.
        options: values of `-X`.
        app: supplies its `broker`, used if neither the command line nor the environment names one, and its credentials.
        keep: keep the embedded broker's data; False starts a broker with an empty log and deletes its data at the end.
    """
    from ..cluster_choice import provide_cluster

    declared, defaults = (None, None) if app is None else (app.declared_broker, app.client_options)
    chosen = _client_options(options)
    with provide_cluster(
        bootstrap_server,
        chosen,
        declared=declared,
        defaults=defaults,
        keep=keep,
        on_progress=status_line,
        on_lost=_announce,
    ) as choice:
        if choice.broker is not None:
            announce_start(choice.broker, "" if keep else ", deleted at the end")
        yield choice


def announce_start(stats: BrokerStats, more: str = "") -> None:
    """Report the start of an embedded broker on stderr."""
    status_line("")
    _announce(
        f"embedded Kafka started in {stats.startup_s:.1f} s at {stats.bootstrap_servers} "
        f"({stats.rss_bytes() / 1e6:.0f} MB, data in {stats.data}{more})"
    )


def running_cluster(bootstrap_server: str | None, options: tuple[str, ...]) -> Cluster | None:
    """Return the cluster that is named or already runs; None if `choose_cluster` would start an embedded broker."""
    from ...topics.cluster import Cluster
    from ..cluster_choice import known_servers, named_cluster, named_servers

    if (servers := named_servers(bootstrap_server)) is not None:
        return named_cluster(servers, _client_options(options))
    servers = known_servers(bootstrap_server)
    return Cluster.named(servers, _client_options(options)) if servers else None


def _announce(text: str) -> None:
    if json_formatter() is not None:
        logger.info(text)
    else:
        click.echo(printable(text), err=True)


def status_line(text: str) -> None:
    """Write a status line to stderr; on a terminal it replaces the previous status line, and "" erases it."""
    if sys.stderr.isatty() and json_formatter() is None:
        click.echo(f"\r\033[K{printable(text, one_line=True)}", err=True, nl=False)
    elif text:
        _announce(text)
