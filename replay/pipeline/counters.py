"""What is noticed about records on their way."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """Counts since a start.

    Attributes:
        late, late_ms: records that were late in their source, and by how much the latest of them.
        left_out: records that were read and not selected, or that a transform gave nothing for.
    """

    late: int = 0
    late_ms: int = 0
    left_out: int = 0
