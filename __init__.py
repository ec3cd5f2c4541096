"""anabranch: a Kafka-centric stream processor with replay.

One program serves two regimes: an agent that runs for ever on a live topic computes the same result over a file of
history. This module exports the names that programs use; the packages hold the rest:

- `anabranch.topics`: records in Kafka: clients, codecs, partitioners, the embedded broker.
- `anabranch.agents`: apps, agents, streams and tables, and the engine that runs them.
- `anabranch.replay`: replay of files into topics, bounded runs, and the `anabranch` command.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "Agent",
    "App",
    "Event",
    "Flow",
    "Keyed",
    "RecordBatch",
    "Retry",
    "Simulation",
    "Stream",
    "Table",
    "Timer",
    "Topic",
    "World",
    "col",
    "current_event",
    "pseudonym",
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

if TYPE_CHECKING:
    from .agents import (
        Agent,
        Aggregate,
        App,
        ApproxDistinct,
        Count,
        Cumulating,
        Distinct,
        Event,
        Flow,
        Hopping,
        Keyed,
        Max,
        Mean,
        Min,
        RecordBatch,
        Retry,
        Sessions,
        Stream,
        Sum,
        Table,
        Timer,
        Top,
        Topic,
        Tumbling,
        Window,
        col,
        current_event,
        pseudonym,
    )
    from .replay.testing.simulation import Simulation
    from .replay.testing.world import World
else:  # hidden from type checkers, which would take every name for one of ours

    def __getattr__(name: str) -> object:
        # Faust takes half a second to import; `anabranch replay` and `anabranch broker` do not need it.
        if name == "World":
            from .replay.testing.world import World

            return World
        if name == "Simulation":
            from .replay.testing.simulation import Simulation

            return Simulation
        if name in __all__:
            from . import agents

            return getattr(agents, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
