"""HyperLogLog: an estimate of the number of different values, with a state in JSON.

A value is hashed to 64 bits (BLAKE2b of its JSON, so the hash is the same everywhere). The first `precision` bits
choose one of 2**precision registers, and the register keeps the longest run of zeros seen at the head of the rest, plus
one. The estimate is Ertl's (arXiv:1702.01284), which needs no correction tables and is as good for few values as for
many.

    state: [register * 64 + run, …], sorted          while at most 1/16 of the registers are in use
           text, a character a register: "0" + run   from then on

The form depends on the values alone, not on how they were grouped, so equal sets have equal states.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from functools import reduce
from hashlib import blake2b

import msgspec

from ...topics.errors import Usage
from .aggregates import Aggregate, ColumnForm, one_form

__all__ = ["ApproxDistinct"]

_encode = msgspec.json.Encoder(order="deterministic").encode
_RUN = 64  # a run of zeros is shorter
_ZERO = ord("0")

State = list[int] | str


@dataclass(frozen=True)
class ApproxDistinct(Aggregate[State]):
    """An estimate of the number of different values. None is not counted; values that are equal to Python count as one
    (1 and 1.0).

    The standard error is 1.04 / sqrt(2**precision): 1.6 % with a precision of 12. A full state takes 4 kB then; with up
    to 256 of its 4,096 registers in use, it is a list of as many numbers. A precision that is greater by two halves the
    error and quadruples the state.

    Args:
        precision: from 4 to 16.
    """

    precision: int = 12
    column_form = ColumnForm(
        lambda how, groups, column: [reduce(how.add, each, how.zero()) for each in groups.distinct(column)]
    )

    def __post_init__(self) -> None:
        if not 4 <= self.precision <= 16:
            raise Usage(f"ApproxDistinct({self.of!r}, precision={self.precision})", hint="from 4 to 16")

    def zero(self) -> State:
        return []

    def add(self, state: State, value: object) -> State:
        if value is None:
            return state
        register, run = self._hashed(value)
        if isinstance(state, str):
            if run <= ord(state[register]) - _ZERO:
                return state
            return f"{state[:register]}{chr(_ZERO + run)}{state[register + 1 :]}"
        entry, index = register * _RUN + run, bisect_left(state, register * _RUN)
        if index < len(state) and state[index] // _RUN == register:
            # A new list: where another aggregate refuses the record, nothing of it may be left here.
            return state if entry <= state[index] else [*state[:index], entry, *state[index + 1 :]]
        state = [*state[:index], entry, *state[index:]]
        return state if len(state) <= self._few else self._full(state)

    def merge(self, state: State, other: State) -> State:
        if isinstance(state, list) and isinstance(other, list):
            longest = {entry // _RUN: entry for entry in sorted([*state, *other])}
            joined = list(longest.values())
            return joined if len(joined) <= self._few else self._full(joined)
        return "".join(map(max, self._full(state), self._full(other)))

    def _full(self, state: State) -> str:
        if isinstance(state, str):
            return state
        registers = bytearray([_ZERO]) * (1 << self.precision)
        for entry in state:
            registers[entry // _RUN] = _ZERO + entry % _RUN
        return registers.decode()

    @property
    def _few(self) -> int:
        return (1 << self.precision) // 16

    def result(self, state: State) -> int:
        runs = (ord(run) - _ZERO for run in state) if isinstance(state, str) else (entry % _RUN for entry in state)
        return round(_estimate(Counter(runs), self.precision))

    def _hashed(self, value: object) -> tuple[int, int]:
        """Return the register and the run of a value."""
        if type(value) is not str and type(value) is not int:
            value = one_form(value)
        bits = int.from_bytes(blake2b(_encode(value), digest_size=8).digest())
        rest = 64 - self.precision
        return bits >> rest, rest - (bits & ((1 << rest) - 1)).bit_length() + 1


def _estimate(of_run: Counter[int], precision: int) -> float:
    count, longest = 1 << precision, 65 - precision
    z = count * _tau(1 - of_run[longest] / count)
    for run in range(longest - 1, 0, -1):
        z = 0.5 * (z + of_run[run])
    used = of_run.total() - of_run[0]
    z += count * _sigma(1 - used / count)
    return count * count / (2 * math.log(2) * z)


def _sigma(x: float) -> float:
    if x == 1:
        return math.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x *= x
        before, z, y = z, z + x * y, 2 * y
    return z


def _tau(x: float) -> float:
    if x in (0, 1):
        return 0.0
    y, z, before = 1.0, 1 - x, -1.0
    while z != before:
        x = math.sqrt(x)
        y *= 0.5
        before, z = z, z - (1 - x) ** 2 * y
    return z / 3
