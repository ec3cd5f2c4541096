"""Apps, agents, streams, tables and flows, and the engine that runs them exactly once.

`engine/loop.py` documents the engine's invariants, `tables/table.py` those of a table.
"""

from faust import current_event

from .agent import Agent
from .app import App
from .engine.settings import EngineSettings, PackedLimits
from .event import Event, RecordBatch
from .event_time.windows import Cumulating, Hopping, Sessions, Tumbling, Window
from .failure_policy import Retry
from .flows.aggregates import Aggregate, Count, Distinct, Max, Mean, Min, Sum, Top
from .flows.expressions import Expression, col, pseudonym
from .flows.flow import Flow, KeyedFlow
from .flows.hyperloglog import ApproxDistinct
from .keyed import Keyed
from .stream import Stream
from .tables.table import Table
from .timers import Timer
from .topic import Topic

__all__ = [
    "Agent",
    "App",
    "EngineSettings",
    "Event",
    "Expression",
    "Flow",
    "Keyed",
    "KeyedFlow",
    "PackedLimits",
    "RecordBatch",
    "Retry",
    "Stream",
    "Table",
    "Timer",
    "Topic",
    "col",
    "pseudonym",
    "current_event",
    # aggregates of a flow
    "Aggregate",
    "ApproxDistinct",
    "Count",
    "Distinct",
    "Max",
    "Mean",
    "Min",
    "Sum",
    "Top",
    # windows of a flow
    "Cumulating",
    "Hopping",
    "Sessions",
    "Tumbling",
    "Window",
]
