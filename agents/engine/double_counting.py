"""Refuses to start a topic without committed offsets while tables already have content.

Reading it from its beginning would count history twice, reading it from its end would skip records.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...topics.errors import Stop
from ..tables.table import Table
from .task import Task

__all__ = ["refuse_double_counting"]


def refuse_double_counting(
    group: str, tables: Iterable[Table], task: Task, recreated: Iterable[str], *, at_end: bool = False
) -> None:
    """Refuse to let a task run if its offsets are lost, but the content of its tables is not.

    Args:
        group: the consumer group.
        recreated: topics that were deleted and recreated since this worker read them.
        at_end: whether topics without committed offsets are read from their ends.

    Raises:
        Stop: this is the case.
    """
    number = task.id.partition
    own = (table for table in tables if table.name in task.group.tables and number in table.states)
    content = [table.name for table in own if len(table.states[number].store)]
    if not content:
        return
    known = any(input.active or not input.is_new for input in task.inputs.values())
    for topic in [topic for topic, input in task.inputs.items() if input.is_new]:
        if topic in recreated:
            raise Stop(
                f"topic {topic} was deleted and recreated, but table {content[0]} has content from before: reading "
                "the new topic would add to it",
                hint=f"to add to it, set the offsets of group {group} in {topic} to 0 with kafka-consumer-groups; "
                f"otherwise delete the changelog topics of {group} to recompute everything",
            )
        if not known:
            raise Stop(
                f"group {group} has no committed offsets, but table {content[0]} has content: reading {topic} from "
                + ("its end would skip records" if at_end else "its beginning would count history twice"),
                hint="offsets expire after a week without a member: set them with kafka-consumer-groups, or delete "
                f"the changelog topics of {group} to recompute everything",
            )
