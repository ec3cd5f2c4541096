"""The name of the agent that a task belongs to, for log messages and errors."""

from __future__ import annotations

import contextvars

__all__ = ["RUNNING_AGENT"]

RUNNING_AGENT: contextvars.ContextVar[str | None] = contextvars.ContextVar("anabranch-agent", default=None)
"""Name of the agent that started the running task, directly or not; None outside agents."""
