"""The inputs of a bounded run: `[TOPIC=]PATH`, with options that apply to one topic or to all."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

from ...topics.errors import Usage
from ..pipeline.column_profile import field_types
from ..sources.format import Format

__all__ = ["Input", "declared_types", "format_of", "parse_inputs", "split_input"]


_TYPES: dict[object, str] = {str: "text", int: "int", float: "float", bool: "bool"}


@dataclass(frozen=True, slots=True)
class Input:
    """History for one topic.

    Attributes:
        topic: its name in the app's program; None means the app's only one.
        specs: files, globs, folders, a socket, an archive or a topic, as for `anabranch replay`.
        phase: the inputs of a phase (`--then`) are replayed when the agents have processed those of the phase before.
        spool: for a socket: the file that stores the lines that it received.
    """

    topic: str | None
    specs: tuple[str, ...]
    format: Format
    phase: int = 0
    spool: str | None = None


def parse_inputs(
    inputs: Sequence[str],
    then: Sequence[str],
    key: Sequence[str],
    times: Sequence[str],
    form: Mapping[str, Any],
    spools: Sequence[str] = (),
) -> list[Input]:
    """Parse the inputs of a command line. Paths of the same topic, format and phase become one input, in their order.

    Raises:
        Usage: an option is not valid.
    """
    in_phases = [(0, text) for text in inputs] + [(phase, text) for phase, text in enumerate(then, 1)]
    merged: dict[tuple[str | None, int, Format], tuple[str, ...]] = {}
    for phase, text in in_phases:
        topic, path = split_input(text)
        at = (topic, phase, format_of(form, key=_scoped(key, topic), time=_scoped(times, topic)))
        merged[at] = (*merged.get(at, ()), path)
    return [
        Input(topic, specs, format_, phase, _scoped(spools, topic)) for (topic, phase, format_), specs in merged.items()
    ]


def split_input(text: str) -> tuple[str | None, str]:
    """Split `TOPIC=PATH` or `PATH` into topic and path. A path that contains `=` is recognised if it exists or has a
    folder in front of the `=`."""
    found = re.match(r"([A-Za-z0-9._-]+)=(.+)", text)
    if found is None or Path(text).exists():
        return None, text
    return found[1], found[2]


def _scoped(values: Sequence[str], topic: str | None) -> str | None:
    """Return the value of an option for a topic: `TOPIC=X` applies to that topic, `X` to all."""
    found = None
    for value in values:
        scoped = re.fullmatch(r"([A-Za-z0-9._-]+)=(?!=)(.*)", value, re.DOTALL)
        if scoped is None:
            found = found or value
        elif scoped[1] == topic:
            return scoped[2]
    return found


def format_of(form: Mapping[str, Any], *, key: str | None = None, time: str | None = None) -> Format:
    """Return the format that the options of a command line describe.

    Raises:
        Usage: an option is not of the form NAME=VALUE.
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
        key=key,
        time=time,
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


def declared_types(value_type: object) -> dict[str, str]:
    """Return the types of CSV columns by name, for `Format.declared`. Types of other fields are inferred by the reader.

    >>> import dataclasses
    >>> declared_types(dataclasses.make_dataclass("Order", [("zip", str), ("fare", float | None), ("at", object)]))
    {'zip': 'text', 'fare': 'float'}
    """
    found: dict[str, str] = {}
    for name, type_ in field_types(value_type).items():
        kind = _kind(type_)
        if kind is not None and not name.startswith("_"):
            found[name] = kind
    return found


def _kind(type_: object) -> str | None:
    """Return the column type for a field's type; `text?` for text that may be null, None for other types."""
    if get_origin(type_) is Annotated:
        return _kind(get_args(type_)[0])
    if get_origin(type_) in (Union, types.UnionType):
        parts = [part for part in get_args(type_) if part is not type(None)]
        kinds = {_kind(part) for part in parts}
        kind = kinds.pop() if len(kinds) == 1 else "float" if kinds == {"int", "float"} else None
        nullable = len(parts) < len(get_args(type_))
        return "text?" if kind == "text" and nullable else kind
    return _TYPES.get(type_)
