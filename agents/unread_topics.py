"""Refuses to start an app whose group has unread records in a former topic that the app no longer reads.

The names of `group_by` topics formerly did not contain the app's id, and in Faust they still do not: two apps of one
program shared a topic. An app that was migrated has its former topic next to the new one. Records that its group has
not read in the former topic would be missing in every total. The worker therefore does not start until they have been
read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..topics.consumer_groups import ConsumerGroups
from ..topics.errors import Usage
from ..topics.partition_reader import read_to_end

if TYPE_CHECKING:
    from ..topics.admin import Admin
    from ..topics.cluster import Cluster

__all__ = ["refuse_unread"]


def refuse_unread(cluster: Cluster, admin: Admin, group: str, former: str, now: str) -> None:
    """Check that a group has read all records of a former topic, or has never read it (blocking).

    A topic for which the group has no committed offset belongs to another app.

    Args:
        former: the topic that is no longer read.
        now: the topic that is read instead.

    Raises:
        Usage: the group has committed offsets of the former topic and has not read it to its end.
    """
    partitions = admin.partitions([former]).get(former, 0)
    if not partitions:
        return
    committed = {at: offset for at, (offset, _) in ConsumerGroups(cluster).offsets(group).items() if at[0] == former}
    if not committed:
        return
    begins, ends = admin.spans((former, number) for number in range(partitions))
    starts = {at: max(begin, committed.get(at, begin)) for at, begin in begins.items()}
    # Offsets alone do not give the number of records: transaction markers occupy offsets, too.
    unread = sum(len(run.messages) for run in read_to_end(cluster, starts, ends))
    if unread:
        raise Usage(
            f"group {group} has left {unread:,} unread records in {former}, which this program no longer reads: "
            "group_by goes "
            f"through {now} now",
            hint="run the former program until it has read that topic to its end, without new input; or delete the "
            "topic, if its records are not needed",
        )
