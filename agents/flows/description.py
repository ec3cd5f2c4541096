"""A flow as people read it: its source, its operators, its end and the topic between them.

lines → map(parse) → key_by('key', 'number') → reduce(sum) → table sums   via shop-sums-repartition
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from .aggregates import Aggregate, What
from .expressions import Constant, Expression, FieldReference, Function, Operation
from .operators import Operator

__all__ = ["FlowDescription", "aggregate_text", "value_text"]


@dataclass(frozen=True, slots=True)
class FlowDescription:
    """A flow that has ended in a table or a topic.

    Attributes:
        source: name of the topic that it reads.
        steps: its operators, as text, in order.
        target: `table NAME` or `topic NAME`.
        repartition: the topic between the operators and the table; None if the record's own key counts.
        sums: fields of the table's values in which numbers are added up, or may be; an empty name is the value itself.
            Such a sum of floats depends in its last digits on how records are grouped.
    """

    source: str
    steps: tuple[str, ...]
    target: str
    repartition: str | None = None
    sums: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        source: str,
        operators: Sequence[Operator],
        keyed: tuple[What, What] | None,
        ending: str,
        target: str,
        repartition: str | None = None,
        sums: tuple[str, ...] = (),
    ) -> FlowDescription:
        """Describe a flow by its parts; `ending` is text such as `reduce(sum)`, or empty."""
        steps = [_operator_text(operator) for operator in operators]
        if keyed is not None:
            key, value = keyed
            steps.append(f"key_by({value_text(key)}{'' if value is None else f', {value_text(value)}'})")
        return cls(source, (*steps, *([ending] if ending else [])), target, repartition, sums)

    def __str__(self) -> str:
        return " → ".join((self.source, *self.steps, self.target))


def aggregate_text(columns: Mapping[str, Aggregate]) -> str:
    """Return the aggregates of a flow as `aggregate(n=Count(), best=Top('amount', 3))`."""
    return f"aggregate({_named(columns)})"


def value_text(what: object) -> str:
    """Return a field's name, an expression, an aggregate or a function as text."""
    match what:
        case FieldReference():
            return f"col({what.name!r})"
        case Constant():
            return repr(what.value)
        case Operation():
            return f"{_operand(what.left)} {what.sign} {_operand(what.right)}"
        case Function():
            argument = "" if what.argument is None else repr(what.argument)
            return f"{_operand(what.of)}.{what.name}({argument})"
        case Expression():
            return type(what).__name__
        case Aggregate():
            return f"{type(what).__name__}({_arguments(what)})"
        case _ if callable(what):
            name = getattr(what, "__name__", None) or type(what).__name__
            return "function" if name == "<lambda>" else str(name)
        case _:
            return repr(what)


def _operand(what: Expression) -> str:
    text = value_text(what)
    return f"({text})" if isinstance(what, Operation) else text


def _operator_text(operator: Operator) -> str:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(operator).__name__).lower()
    return f"{name}({_arguments(operator)})"


def _arguments(of: Operator | Aggregate[Any]) -> str:
    """Return the values of a dataclass's fields that differ from their defaults; mappings become named arguments."""
    shown: list[str] = []
    for field in dataclasses.fields(of):
        value = getattr(of, field.name)
        if isinstance(value, Mapping):
            shown.append(_named(cast("Mapping[str, object]", value)))
        elif isinstance(value, Expression) or value != field.default:
            shown.append(value_text(value))
    return ", ".join(shown)


def _named(values: Mapping[str, object]) -> str:
    return ", ".join(
        repr(name) if isinstance(value, str) and value == name else f"{name}={value_text(value)}"
        for name, value in values.items()
    )
