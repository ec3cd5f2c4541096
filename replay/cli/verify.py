"""`anabranch verify`: whether two histories hold the same."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from .common_options import cluster_at_hand, cluster_options, format_options, log_to_stderr

__all__ = ["verify"]


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
    **form: Any,
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
    from .console import write_json
    from .verify_output import show_verified

    log_to_stderr(None)
    cluster = cluster_at_hand(bootstrap_server, options)
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
