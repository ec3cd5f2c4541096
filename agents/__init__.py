"""What is computed: apps, agents, streams and tables, and the engine that runs them exactly once.

`engine.py` has the loop and its laws; `table.py` and `state.py` what a table is; `commit.py` what a commit does.
"""

from faust import current_event

from .app import App
from .engine.settings import EngineSettings, PackedLimits
from .event import RecordBatch
from .failure_policy import Retry
from .flows.aggregates import Aggregate, Count, Distinct, Max, Mean, Min, Sum, Top
from .flows.expressions import Expression, col
from .flows.flow import Flow
from .flows.hyperloglog import ApproxDistinct
from .tables.table import Table

__all__ = [
    "App",
    "EngineSettings",
    "Expression",
    "Flow",
    "PackedLimits",
    "RecordBatch",
    "Retry",
    "Table",
    "col",
    "current_event",
    # for Flow.aggregate
    "Aggregate",
    "ApproxDistinct",
    "Count",
    "Distinct",
    "Max",
    "Mean",
    "Min",
    "Sum",
    "Top",
]
