"""Options about the way of records, which `replay` and `run` share."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import click

from .course import Course
from .disorder import Disorder

__all__ = ["course_of", "course_options"]

Command = Callable[..., Any]


def course_options(command: Command) -> Command:
    """In which order records go."""
    for option in (
        click.option(
            "--disorder",
            metavar="WHAT",
            default="accept",
            show_default=True,
            help="Records that are earlier than one before them in their file: accept, fail, sort or sort:N (a buffer "
            "of N records a file; 10000).",
        ),
        click.option(
            "--order",
            type=click.Choice(["auto", "time", "source"]),
            default="auto",
            show_default=True,
            help="Of several files: merged by time, or one after another; auto merges where --time is given.",
        ),
    ):
        command = option(command)
    return command


def course_of(form: MutableMapping[str, Any]) -> Course:
    """The course that the options of a command line describe; takes them out of `form`.

    Raises:
        Usage: one is not what it should be.
    """
    return Course(order=form.pop("order"), disorder=Disorder.parse(form.pop("disorder")))
