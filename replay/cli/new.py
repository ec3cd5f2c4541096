"""`anabranch new`: a small project to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from ...topics.printable import printable

__all__ = ["new"]


@click.command()
@click.argument("name")
def new(name: str) -> None:
    """Write a small project to a new folder NAME: an app, its test, sample records, settings and a README.

    Nothing is overwritten.

    \b
    Examples:
      anabranch new shop
      cd shop && anabranch run --input orders.jsonl --key user --output totals.csv
    """
    from ..project_template import create_project

    for file in create_project(name, Path()):
        click.echo(printable(f"wrote {file}"))
    click.echo("Next:")
    for command in (
        f"cd {name}",
        "anabranch run --input orders.jsonl --key user",
        "anabranch worker",
        "pip install pytest && pytest",
    ):
        click.echo(f"  {command}")
