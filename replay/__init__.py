"""History back into the stream: files and sockets read in order, and played into a topic exactly once.

history = find_history(["orders/*.jsonl.gz"], Format(key="user", time="at"))
report = Player(cluster, history, "orders").play()
"""

from .format import Format
from .history import History, find_history
from .player import Player
from .report import Progress, Report

__all__ = ["Format", "History", "Player", "Progress", "Report", "find_history"]
