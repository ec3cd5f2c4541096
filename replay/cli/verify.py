"""`anabranch verify`: compare the records of two sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

import click

from ...topics.private_fields import NOTHING, PrivateFields
from .common_options import FormatOptions, cluster_options, format_options, running_cluster, show_private_option
from .console import out, write_json
from .logs import log_to_stderr

if TYPE_CHECKING:
    from ..verify.comparison import Compared

__all__ = ["verify"]

_SHOWN_CHARS = 100


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("-k", "--key", metavar="EXPR", help="Files: field or expression for the key, as in the replay.")
@click.option(
    "-t", "--time", metavar="EXPR", help="Files: field or expression for the time; without it, times are not compared."
)
@click.option("-n", "most", type=click.IntRange(1), default=10, show_default=True, help="Differences to show per side.")
@click.option("-J", "--json", "as_json", is_flag=True, help="Print JSON.")
@format_options
@show_private_option
@cluster_options
@click.pass_context
def verify(
    context: click.Context,
    a: str,
    b: str,
    key: str | None,
    time: str | None,
    most: int,
    as_json: bool,
    bootstrap_server: str | None,
    options: tuple[str, ...],
    **form: Unpack[FormatOptions],
) -> None:
    """Compare the records of A and B, ignoring their order, and show the first differences.

    A and B are a file or a glob, an archive folder, topic://NAME (with ?from=…&until=…), or table://APP/TABLE, with
    APP-run-ID for a table of a bounded run. Times are compared if both sides have them, partitions if both sides have
    the same number of them. Memory is bounded, except that a table is read as a whole.

    Exits with 1 if the sides differ, or if a side has lines or rows that cannot be read.

    \b
    Examples:
      anabranch verify orders.jsonl topic://orders --key user --time at
      anabranch verify archive/orders topic://orders-again
      anabranch verify table://shop/totals table://shop-run-1f0c9a7e/totals
    """
    from ..runs.inputs import format_of
    from ..shown_fields import private_fields_by_topic
    from ..verify.comparison import verify as compare
    from ..verify.comparison_side import find_side

    log_to_stderr(None)
    cluster = running_cluster(bootstrap_server, options)
    format = format_of(form, key=key, time=time)
    sides = find_side(a, format, cluster), find_side(b, format, cluster)
    private = NOTHING
    topics = [side.topic for side in sides if side.topic is not None]
    for of_topic in private_fields_by_topic(cluster, topics, context.obj).values():
        private = private.joined(of_topic)
    compared = compare(*sides, most=most)
    if as_json:
        tallies = [
            {"name": s.name, "records": s.records, "digest": s.digest, "unreadable": s.unreadable}
            for s in (compared.a, compared.b)
        ]
        differences = [
            {
                "only_in": d.only_in,
                "position": d.position,
                "key": _text(private.key_bytes(d.key, d.value)),
                "value": _text(private.value_bytes(d.value)),
            }
            for d in compared.differences
        ]
        write_json({"equal": compared.same, "compared": compared.fields, "sides": tallies, "differences": differences})
    else:
        show_verified(compared, private)
    if not compared.same:
        raise SystemExit(1)


def show_verified(compared: Compared, private: PrivateFields = NOTHING) -> None:
    """Print both sides, and the differences without private fields."""
    for tally in (compared.a, compared.b):
        out.print(f"{tally.records:>12,} records  digest {tally.digest}  {tally.name}", markup=False)
        if tally.unreadable:
            out.print(f"{tally.unreadable:>12,} unreadable lines or rows, for example:", style="red")
            for example in tally.examples:
                out.print(f"               {example}", markup=False)
    if compared.same:
        out.print(f"equal, ignoring order (compared: {', '.join(compared.fields)})")
        return
    if compared.equal:
        out.print("different: the records are equal, but there are unreadable lines or rows", style="red")
        return
    out.print(f"different (compared: {', '.join(compared.fields)})", style="red")
    for side in (compared.a.name, compared.b.name):
        found = [difference for difference in compared.differences if difference.only_in == side]
        if found:
            out.print(f"only in {side}, or more often there:", markup=False)
        for difference in found:
            key = private.key_bytes(difference.key, difference.value)
            value = private.value_bytes(difference.value)
            out.print(f"  {difference.position}: {_shown(key)} = {_shown(value)}", markup=False)


def _shown(data: bytes | None) -> str:
    text = _text(data)
    if text is None:
        return "null"
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "backslashreplace")
