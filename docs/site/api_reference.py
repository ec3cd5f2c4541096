"""The API reference, from the docstrings and annotations of the public names.

`MEMBERS` lists what a program uses of a class that Faust or the engine also use. Other classes are shown with all of
their public members. `tests/docs/test_site.py` checks that each name of `anabranch` is here and has a docstring.
"""

from __future__ import annotations

import inspect
from typing import Any

import anabranch
from anabranch import agents
from anabranch.agents import declarations
from anabranch.topics import errors, partitioners
from docstrings import attributes, markdown, type_text

# Sections in their order, with the names of each.
SECTIONS: dict[str, list[str]] = {
    "Apps": ["App", "EngineSettings", "PackedLimits"],
    "Topics": ["Topic", "RangePartitioner"],
    "Agents and streams": ["Agent", "Stream", "Event", "RecordBatch", "current_event", "Keyed", "Retry"],
    "Tables": ["Table"],
    "Flows": ["Flow", "KeyedFlow", "col", "pseudonym", "Expression"],
    "Aggregates": [
        "Count", "Sum", "Min", "Max", "Mean", "Distinct", "ApproxDistinct", "Top", "Aggregate",
    ],
    "Windows": ["Tumbling", "Hopping", "Cumulating", "Sessions", "Window"],
    "Tests": ["World", "Simulation"],
    "Errors": ["AnabranchError", "Retriable", "Rebuild", "BadRecord", "Stop", "Hung", "Usage"],
}  # fmt: skip

# A name that is new and not listed above is shown in a last section.
_LISTED = {name for names in SECTIONS.values() for name in names}
SECTIONS["More"] = sorted({*anabranch.__all__, *agents.__all__} - {"__version__"} - _LISTED)

MEMBERS: dict[str, list[str]] = {
    "App": [
        "topic", "agent", "Table", "SetTable", "GlobalTable", "stream", "task", "timer", "crontab", "page", "is_leader",
        "start_client",
    ],
    "Topic": [
        "send", "send_soon", "map", "filter", "flat_map", "select", "with_columns", "key_by", "reduce", "aggregate",
        "window", "with_time", "declare",
    ],
    "Agent": ["ask", "ask_nowait", "cast", "send", "join", "map", "kvjoin", "kvmap", "test_context"],
    "Stream": [
        "batches", "take", "take_events", "take_with_timestamp", "events", "items", "enumerate", "filter", "echo",
        "group_by", "through", "add_processor", "current_event",
    ],
    "Event": ["forward", "send"],
    "Table": [
        "get", "pop", "setdefault", "update", "clear", "keys", "values", "items", "copy", "changelog_name",
    ],
    "Aggregate": ["zero", "add", "merge", "result"],
    **{name: [] for name in ("Tumbling", "Hopping", "Cumulating", "Sessions")},
    **{name: [] for name in ("Count", "Sum", "Min", "Max", "Mean", "Distinct", "ApproxDistinct", "Top")},
}  # fmt: skip

# Names that a program imports from elsewhere.
ELSEWHERE: dict[str, tuple[Any, str]] = {
    "RangePartitioner": (partitioners.RangePartitioner, "anabranch.topics.partitioners"),
    **{name: (getattr(errors, name), "anabranch.topics.errors") for name in SECTIONS["Errors"]},
}

# Decorators and declarations have their signature and docstring in a protocol, and options in a class.
DECLARED: dict[str, tuple[type, type | tuple[type, ...] | None]] = {
    "App.topic": (
        declarations.TopicDeclaration,
        (declarations.TopicOptions, declarations.TimedTopicOptions),
    ),
    "App.agent": (declarations.AgentDeclaration, declarations.AgentOptions),
    "App.Table": (declarations.TableDeclaration, declarations.TableOptions),
    "App.GlobalTable": (declarations.TableDeclaration, None),
    "App.SetTable": (declarations.SetTableDeclaration, None),
    "App.task": (declarations.TaskDeclaration, None),
    "App.page": (declarations.PageDeclaration, None),
    "App.stream": (declarations.StreamDeclaration, None),
}
LIKE_ANOTHER = {"App.GlobalTable": "Declare a table that every worker holds whole; otherwise as `App.Table`."}
_LONG = 100


def api_reference() -> str:
    """Return the reference of all public names, as Markdown."""
    parts: list[str] = []
    for section, names in SECTIONS.items():
        if not names:
            continue
        parts.append(f"## {section}")
        parts += [_of(name) for name in names]
    return "\n\n".join(parts)


def named(name: str) -> tuple[Any, str]:
    """Return the object of a name, and the module to import it from."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    if name in anabranch.__all__:
        return getattr(anabranch, name), "anabranch"
    return getattr(agents, name), "anabranch.agents"


def members(name: str) -> list[str]:
    """Return the members of a class that the reference shows."""
    thing, _ = named(name)
    if name in MEMBERS:
        return MEMBERS[name]
    if not inspect.isclass(thing) or issubclass(thing, Exception):
        return []
    own = [base for base in thing.__mro__ if base.__module__.startswith("anabranch.")]
    found = [member for base in reversed(own) for member in vars(base) if not member.startswith("_")]
    return [member for member in dict.fromkeys(found) if _is_shown(inspect.getattr_static(thing, member))]


def _is_shown(member: object) -> bool:
    return bool(inspect.getdoc(member)) and (
        inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)
    )


def _of(name: str) -> str:
    thing, module = named(name)
    kind = "class" if inspect.isclass(thing) else "def"
    parts = [f"### `{name}`", f"```python\nfrom {module} import {name}\n```", markdown(inspect.getdoc(thing) or "")]
    if kind == "def":
        parts.insert(2, f"```python\n{name}{_signature(thing)}\n```")
    for member in members(name):
        parts.append(_member(name, thing, member))
    return "\n\n".join(parts)


def _member(owner: str, thing: type, member: str) -> str:
    static = inspect.getattr_static(thing, member)
    qualified = f"{owner}.{member}"
    if qualified in DECLARED:
        declaration, options = DECLARED[qualified]
        ours = static if static.__module__.startswith("anabranch.") else declaration.__call__
        doc = LIKE_ANOTHER.get(qualified) or markdown(inspect.getdoc(declaration.__call__) or "")
        if options is not None:
            listed = "\n".join(map(_options, options if isinstance(options, tuple) else (options,)))
            doc += f"\n\n**Options**\n\n{listed}"
        return f"#### `{qualified}`\n\n```python\n{member}{_signature(ours)}\n```\n\n{doc}"
    value = getattr(thing, member) if not isinstance(static, property) else static
    doc = markdown(inspect.getdoc(value) or "")
    if isinstance(static, property):
        return f"#### `{qualified}`\n\nAttribute. {doc}"
    return f"#### `{qualified}`\n\n```python\n{member}{_signature(value)}\n```\n\n{doc}"


def _options(options: type) -> str:
    texts = attributes(inspect.getdoc(options) or "")
    kinds = {name: type_text(kind) for name, kind in options.__annotations__.items()}
    return "\n".join(f"- `{name}` (`{kinds[name]}`): {text}" for name, text in texts.items() if name in kinds)


def _signature(value: Any) -> str:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return "(…)"
    kept = [each for name, each in signature.parameters.items() if name not in ("self", "cls", "fun_self")]
    shown = [_parameter(each) for each in kept]
    starred = next((at for at, each in enumerate(kept) if each.kind is each.KEYWORD_ONLY), None)
    if starred is not None and not any(each.kind is each.VAR_POSITIONAL for each in kept):
        shown.insert(starred, "*")
    result = signature.return_annotation
    arrow = "" if result is inspect.Signature.empty else f" -> {type_text(result)}"
    text = f"({', '.join(shown)}){arrow}"
    if len(text) > _LONG:
        text = "(\n    " + ",\n    ".join(shown) + f",\n){arrow}"
    return text


def _parameter(each: inspect.Parameter) -> str:
    stars = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
    text = stars + each.name
    if each.annotation is not each.empty:
        text += f": {type_text(each.annotation)}"
    if each.default is not each.empty:
        default = "…" if callable(each.default) or " at 0x" in repr(each.default) else repr(each.default)
        text += f" = {default}" if each.annotation is not each.empty else f"={default}"
    return text
