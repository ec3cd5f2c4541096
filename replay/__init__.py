"""History back into the stream: files and sockets read in order, and played into a topic exactly once.

history = find_history(["orders/*.jsonl.gz"], Format(key="user", time="at"))
report = Player(cluster, history, "orders").play()
"""

from .course.course import Course
from .course.disorder import Disorder
from .course.pace import Pace
from .course.selection import Selection
from .course.transform import Record
from .player import Player
from .report import Progress, Report
from .sources.format import Format
from .sources.history import History, find_history

__all__ = [
    "Course", "Disorder", "Format", "History", "Pace", "Player", "Progress", "Record", "Report", "Selection",
    "find_history",
]  # fmt: skip
