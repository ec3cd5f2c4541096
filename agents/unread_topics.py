"""Records that a group has left unread in a topic that is not read any more.

`group_by` once went through topics without the app's id, as Faust's still does: two apps of one program shared one. An
app that comes from there finds its old topic beside the new one. What its group has not read of it would be missing in
every total, so the worker does not start until it has been read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..topics.consumer_groups import Groups
from ..topics.errors import Usage
from ..topics.partition_reader import read_to_end

if TYPE_CHECKING:
    from ..topics.admin import Admin
    from ..topics.cluster import Cluster

__all__ = ["refuse_unread"]


def refuse_unread(cluster: Cluster, admin: Admin, group: str, former: str, now: str) -> None:
    """Return if a group has read all of a former topic, or none: then it is another app's (blocking).

    Args:
        now: the topic that is read instead.

    Raises:
        Usage: it has begun to read it, and there is more.
    """
    partitions = admin.partitions([former]).get(former, 0)
    if not partitions:
        return
    committed = {at: offset for at, (offset, _) in Groups(cluster).offsets(group).items() if at[0] == former}
    if not committed:
        return
    begins, ends = admin.spans((former, number) for number in range(partitions))
    starts = {at: max(begin, committed.get(at, begin)) for at, begin in begins.items()}
    # Positions alone cannot tell: transaction markers occupy offsets, too.
    unread = sum(len(run.messages) for run in read_to_end(cluster, starts, ends))
    if unread:
        raise Usage(
            f"group {group} has left {unread:,} records unread in {former}, which is not read any more: group_by goes "
            f"through {now} now",
            hint="let the program as it was (Faust, say) read that topic to its end, without new input; or delete the "
            "topic, if its records do not matter",
        )
