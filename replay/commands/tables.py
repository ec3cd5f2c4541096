"""`anabranch tables`: what an app holds."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..options import app_name, cluster_options, log_to_stderr, on_ground

__all__ = ["tables"]


@click.command()
@click.argument("name", required=False, metavar="[TABLE]")
@click.option("--key", help="Only this key.")
@click.option("--follow", is_flag=True, help="Show it anew every second.")
@click.option("--digest", is_flag=True, help="Only the digest: equal for equal content.")
@click.option("-J", "--json", "as_json", is_flag=True, help="JSON lines, all keys.")
@click.option("-n", "most", type=int, default=20, show_default=True, help="Rows to show.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write to a file: .txt .csv .json .jsonl .parquet"
)
@click.option("--run-id", help="Of a bounded run, instead of the live tables.")
@cluster_options
@click.pass_context
def tables(
    context: click.Context,
    name: str | None,
    key: str | None,
    follow: bool,
    digest: bool,
    as_json: bool,
    most: int,
    output: Path | None,
    run_id: str | None,
    bootstrap_server: str | None,
    options: tuple[str, ...],
) -> None:
    """Show a table's content, as committed, whether a worker runs or not.

    \b
    Examples:
      anabranch -A shop tables
      anabranch -A shop tables totals --key alice
      anabranch -A shop tables totals --follow
    """
    from ..look import look

    log_to_stderr(None)
    if run_id:
        os.environ["ANABRANCH_RUN"] = run_id
    from ..loading import load_app

    app = load_app(app_name(context))
    with on_ground(bootstrap_server, options, app.declared_broker) as place:
        app.cluster = place.cluster
        look(app, name, key=key, follow=follow, digest=digest, as_json=as_json, most=most, output=output)
