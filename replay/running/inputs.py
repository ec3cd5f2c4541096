"""What goes into a bounded run: `[TOPIC=]PATH`, with options that are for one topic or for all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...topics.errors import Usage
from ..sources.format import Format

__all__ = ["Input", "format_of", "parse_inputs", "split_input"]


@dataclass(frozen=True, slots=True)
class Input:
    """What goes into one topic.

    Attributes:
        topic: as the app names it; None means its only one.
        stage: inputs of a stage start when those of the stages before are through the agents.
        spool: of a socket: file that keeps what it gives.
    """

    topic: str | None
    specs: tuple[str, ...]
    format: Format
    stage: int = 0
    spool: str | None = None


def parse_inputs(
    inputs: Sequence[str],
    then: Sequence[str],
    key: Sequence[str],
    times: Sequence[str],
    form: Mapping[str, Any],
    spools: Sequence[str] = (),
) -> list[Input]:
    """The inputs of a command line; paths of one topic, format and stage are one input, read one after another."""
    staged = [(0, text) for text in inputs] + [(stage, text) for stage, text in enumerate(then, 1)]
    merged: dict[tuple[str | None, int, Format], tuple[str, ...]] = {}
    for stage, text in staged:
        topic, path = split_input(text)
        at = (topic, stage, format_of(form, key=_scoped(key, topic), time=_scoped(times, topic)))
        merged[at] = (*merged.get(at, ()), path)
    return [
        Input(topic, specs, format_, stage, _scoped(spools, topic)) for (topic, stage, format_), specs in merged.items()
    ]


def split_input(text: str) -> tuple[str | None, str]:
    """`TOPIC=PATH` or `PATH`; a path that itself contains `=` is one as long as it has a folder or exists."""
    found = re.match(r"([A-Za-z0-9._-]+)=(.+)", text)
    if found is None or Path(text).exists():
        return None, text
    return found[1], found[2]


def _scoped(values: Sequence[str], topic: str | None) -> str | None:
    """The value for a topic: `TOPIC=X` for that one, `X` for all."""
    found = None
    for value in values:
        scoped = re.fullmatch(r"([A-Za-z0-9._-]+)=(?!=)(.*)", value, re.DOTALL)
        if scoped is None:
            found = found or value
        elif scoped[1] == topic:
            return scoped[2]
    return found


def format_of(form: Mapping[str, Any], **more: Any) -> Format:
    """The format that the options of a command line describe.

    Raises:
        Usage: a pair is none.
    """
    columns = form.get("columns")
    types = form.get("types")
    return Format(
        kind=form["kind"],
        key_before=form.get("key_before"),
        columns=tuple(columns.split(",")) if columns else None,
        types=_pairs("--types", types.split(",")) if types else (),
        delimiter=form.get("delimiter"),
        quote=form.get("quote", '"'),
        headers=_pairs("--header", form.get("headers", ())),
        partition=form.get("partition"),
        time_format=form.get("time_format", "auto"),
        time_zone=form.get("time_zone", "UTC"),
        encoding=form["encoding"],
        as_text=form["as_text"],
        **more,
    )


def _pairs(option: str, texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    pairs = [text.partition("=") for text in texts]
    for text, (name, _, value) in zip(texts, pairs, strict=True):
        if not name or not value:
            raise Usage(
                f"{option} {text}: expected NAME=…", hint="for example --header source=carrier --types zip=text"
            )
    return tuple((name, value) for name, _, value in pairs)
