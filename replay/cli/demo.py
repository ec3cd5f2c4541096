"""`anabranch demo`: run the example jobs on real data."""

from __future__ import annotations

import click

from .common_options import choose_cluster, cluster_options
from .logs import log_to_stderr

__all__ = ["demo"]


@click.command()
@cluster_options
def demo(bootstrap_server: str | None, options: tuple[str, ...]) -> None:
    """Run the example jobs: a keyed sum over a file and over a live socket, and a year of flights by airline."""
    from .demo_script import flight_data, run_demo

    log_to_stderr(None)
    data = flight_data()
    with choose_cluster(bootstrap_server, options, keep=False) as choice:
        run_demo(choice, data)
