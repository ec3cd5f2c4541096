"""anabranch: a Kafka-centric stream processor with replay.

One program serves two regimes: the agent that runs for ever on the live topic gives, over a file of history, the same
result. This page hands on the few names of a first program; the rooms hold the rest:

- `anabranch.topics`: how records travel and rest.
- `anabranch.agents`: what is computed.
- `anabranch.replay`: history back into the stream, and the `anabranch` command.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["App", "Retry", "__version__", "col", "current_event"]

if TYPE_CHECKING:
    from .agents import App, Retry, col, current_event


def __getattr__(name: str) -> Any:
    # Faust takes half a second to import; `anabranch replay` and `anabranch broker` never need it.
    if name in ("App", "Retry", "col", "current_event"):
        from . import agents

        return getattr(agents, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
