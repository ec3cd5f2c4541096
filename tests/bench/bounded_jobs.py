"""The jobs of the bench of bounded runs: a program and its input files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from records import Truth

__all__ = ["AMOUNTS", "FLIGHTS", "Job", "Rows"]


@dataclass(frozen=True, slots=True)
class Job:
    """A flow that sums by key.

    Attributes:
        program: beside this file; app: its app's id; key: the column that is the records' key.
        columns: of text without a header; empty where there is one.
    """

    program: str
    app: str
    key: str
    columns: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The program."""
        return Path(__file__).with_name(self.program)


class Rows(Protocol):
    """The same rows as text and as Parquet, and what their sums must be."""

    @property
    def rows(self) -> int: ...

    @property
    def text(self) -> Path: ...

    @property
    def parquet(self) -> Path: ...

    @property
    def truth(self) -> Truth: ...

    @property
    def job(self) -> Job: ...


AMOUNTS = Job("amountsum.py", "amounts", "key", ("key", "amount"))
FLIGHTS = Job("flightmiles.py", "miles", "dest")
