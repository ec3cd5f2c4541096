"""The registry of engines that are broken on purpose, and the swap of a function for a faulty one."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["BROKEN_ENGINES", "BrokenEngine", "broken_engine", "swapped"]


@dataclass(frozen=True)
class BrokenEngine:
    """A fault of the engine.

    Attributes:
        program: the app that is run, by its name in `world_programs.PROGRAMS`.
        faults: the kinds of faults of the worlds that have to find it.
        broken: what breaks the engine, inside of its block.
    """

    program: str
    faults: str
    broken: Callable[[], AbstractContextManager[None]]


BROKEN_ENGINES: dict[str, BrokenEngine] = {}

Broken = Callable[[], Generator[None]]


def broken_engine(program: str = "bank", faults: str = "all") -> Callable[[Broken], Broken]:
    def register(broken: Broken) -> Broken:
        name = broken.__name__.replace("_", " ")
        BROKEN_ENGINES[name] = BrokenEngine(program, faults, contextmanager(broken))
        return broken

    return register


@contextmanager
def swapped(owner: Any, name: str, made: Callable[[Any], Any]) -> Generator[None]:
    """Replace an attribute by what `made` makes of it."""
    before = owner.__dict__[name]
    setattr(owner, name, made(before))
    try:
        yield
    finally:
        setattr(owner, name, before)
