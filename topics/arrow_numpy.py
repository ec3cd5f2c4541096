"""Arrow arrays of numbers as NumPy arrays and back, without copying.

Arrow's own conversions (`pyarrow.array`, `to_numpy`, scalars) import pandas if it is installed, only to check whether
their input is from there: half a second of each start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import pyarrow

__all__ = ["as_arrow", "as_numpy"]


def as_numpy(column: pyarrow.Array) -> numpy.ndarray:
    """Return an array of integers or floats without nulls as a NumPy array."""
    import numpy

    numbers: Any = column
    return numpy.from_dlpack(numbers)


def as_arrow(numbers: numpy.ndarray) -> pyarrow.Array:
    """Return a NumPy array of integers as an Arrow array of int64."""
    import numpy
    import pyarrow

    made: Any = numpy.ascontiguousarray(numbers, numpy.int64)
    return pyarrow.Array.from_buffers(pyarrow.int64(), len(made), [None, pyarrow.py_buffer(made)])
