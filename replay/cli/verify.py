"""`anabranch verify`: whether two histories hold the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

import click
import msgspec

from .common_options import FormatOptions, cluster_options, format_options, running_cluster
from .console import out, write_json
from .logs import log_to_stderr

if TYPE_CHECKING:
    from ..verify.comparison import Compared

__all__ = ["verify"]

_SHOWN_CHARS = 100


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("-k", "--key", metavar="EXPR", help="Of files, as they were replayed.")
@click.option("-t", "--time", metavar="EXPR", help="Of files, as they were replayed; else times are not compared.")
@click.option("-n", "most", type=click.IntRange(1), default=10, show_default=True, help="Differences to show a side.")
@click.option("-J", "--json", "as_json", is_flag=True, help="Say it as JSON.")
@format_options
@cluster_options
def verify(
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
    """Compare A with B: counts, a digest that no order changes, and on difference the first records and their places.

    A and B are a file or a glob, an archive's folder, topic://NAME (with ?from=…&until=…), or table://APP/TABLE
    (APP-run-ID for the table of a bounded run). Times, and partitions where both have equally many, are compared where
    both sides have them. Memory is bounded, except that a table is held as a whole. Exit code 1 where they differ, and
    where a side has lines that cannot be read, which are counted.

    \b
    Examples:
      anabranch verify orders.jsonl topic://orders --key user --time at
      anabranch verify archive/orders topic://orders-again
      anabranch verify table://shop/totals table://shop-run-1f0c9a7e/totals
    """
    from ..runs.inputs import format_of
    from ..verify.comparison import verify as compare
    from ..verify.comparison_side import find_side

    log_to_stderr(None)
    cluster = running_cluster(bootstrap_server, options)
    format = format_of(form, key=key, time=time)
    compared = compare(find_side(a, format, cluster), find_side(b, format, cluster), most=most)
    if as_json:
        sides = [
            {"name": s.name, "records": s.records, "digest": s.digest, "unreadable": s.unreadable}
            for s in (compared.a, compared.b)
        ]
        found = [{**msgspec.to_builtins(d), "key": str(d.key), "value": str(d.value)} for d in compared.differences]
        facts = {"same": compared.same, "compared": compared.fields, "sides": sides, "differences": found}
        write_json(facts)
    else:
        show_verified(compared)
    if not compared.same:
        raise SystemExit(1)


def show_verified(compared: Compared) -> None:
    """Both sides, and what differs."""
    for tally in (compared.a, compared.b):
        out.print(f"{tally.records:>12,} records  digest {tally.digest}  {tally.name}", markup=False)
        if tally.unreadable:
            out.print(f"{tally.unreadable:>12,} that cannot be read, for example:", style="red")
            for example in tally.examples:
                out.print(f"               {example}", markup=False)
    if compared.same:
        out.print(f"the same, in any order ({', '.join(compared.fields)})")
        return
    if compared.equal:
        out.print("they differ in what cannot be read; the records are the same", style="red")
        return
    out.print(f"they differ ({', '.join(compared.fields)} were compared)", style="red")
    for side in (compared.a.name, compared.b.name):
        found = [difference for difference in compared.differences if difference.only_in == side]
        if found:
            out.print(f"only, or more often, in {side}:", markup=False)
        for difference in found:
            out.print(f"  {difference.where}: {_shown(difference.key)} = {_shown(difference.value)}", markup=False)


def _shown(data: bytes | None) -> str:
    if data is None:
        return "null"
    text = data.decode("utf-8", "backslashreplace")
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
