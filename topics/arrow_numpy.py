"""Numbers of Arrow as NumPy sees them, and back, without copying.

Arrow's own ways (`pyarrow.array`, `to_numpy`, scalars) load pandas where that happens to be installed, only to look
whether it is given some: half a second of each start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import pyarrow

__all__ = ["as_arrow", "as_numpy"]


def as_numpy(column: pyarrow.Array) -> numpy.ndarray:
    """Whole numbers or floats, none of them null."""
    import numpy

    numbers: Any = column
    return numpy.from_dlpack(numbers)


def as_arrow(numbers: numpy.ndarray) -> pyarrow.Array:
    """Whole numbers of 64 bits."""
    import numpy
    import pyarrow

    made: Any = numpy.ascontiguousarray(numbers, numpy.int64)
    return pyarrow.Array.from_buffers(pyarrow.int64(), len(made), [None, pyarrow.py_buffer(made)])
