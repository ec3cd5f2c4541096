"""What goes into a bounded run: `[TOPIC=]PATH`, with options that are for one topic or for all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ...topics.errors import Usage
from ..sources.format import Format

__all__ = ["Input", "format_of", "parse_inputs", "refuse_unaligned", "split_input"]


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


def refuse_unaligned(inputs: Sequence[Input], topics: Sequence[str], *, by_time: bool = False) -> None:
    """Refuse several inputs of one stage that are to go by event time.

    Only the files of one input are merged by time. Several inputs are sent one after another, and the order in which
    topics are written does not decide the order in which agents read them.

    Args:
        topics: of the inputs, in their order.
        by_time: an order by time was asked for, whether or not a field with the time is named.

    Raises:
        Usage: names `--then`.
    """
    for stage in sorted({asked.stage for asked in inputs}):
        found = [(asked, topic) for asked, topic in zip(inputs, topics, strict=True) if asked.stage == stage]
        if len(found) < 2 or not (by_time or any(asked.format.time for asked, _ in found)):
            continue
        names = sorted({topic for _, topic in found})
        if len(names) == 1:
            raise Usage(
                f"the inputs of {names[0]} are not given alike, so they would not be merged by time",
                hint="name the topic with each: --input TOPIC=PATH --input TOPIC=PATH",
            )
        raise Usage(
            f"several inputs with --time: each topic has its own order, and nothing aligns {', '.join(names)} by event "
            "time: an agent would see the future of one beside the past of another",
            hint="--then TOPIC=PATH gives an input that starts when those before it are processed; without --time, "
            "inputs are read in no particular order",
        )


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
        types=_types(types) if types else (),
        **({"nulls": tuple(form["nulls"])} if form.get("nulls") else {}),
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


def _types(text: str) -> tuple[tuple[str, str], ...]:
    if not text.startswith("@"):
        return _pairs("--types", text.split(","))
    try:
        found = msgspec.json.decode(Path(text[1:]).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError) as exc:
        raise Usage(f"--types {text}: {exc}", hint='a JSON object such as {"zip": "text", "fare": "float"}') from None
    return tuple(found.items())


def _pairs(option: str, texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    pairs = [text.partition("=") for text in texts]
    for text, (name, _, value) in zip(texts, pairs, strict=True):
        if not name or not value:
            raise Usage(
                f"{option} {text}: expected NAME=…", hint="for example --header source=carrier --types zip=text"
            )
    return tuple((name, value) for name, _, value in pairs)
