"""History back into the stream: files and sockets read in order, and played into a topic exactly once.

history = find_history(["orders/*.jsonl.gz"], Format(key="user", time="at"))
report = Player(cluster, history, "orders").play()
"""

from .course import Course
from .disorder import Disorder
from .format import Format
from .history import History, find_history
from .pace import Pace
from .player import Player
from .report import Progress, Report
from .selection import Selection
from .transform import Record

__all__ = [
    "Course", "Disorder", "Format", "History", "Pace", "Player", "Progress", "Record", "Report", "Selection",
    "find_history",
]  # fmt: skip
