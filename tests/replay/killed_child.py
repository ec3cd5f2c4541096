"""Replays in child processes that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from anabranch.topics.cluster import Cluster


def kill_repeatedly(program: str, cluster: Cluster, *arguments: object, after: tuple[int, ...]) -> None:
    """Run a program again and again, and kill it after some commits each time.

    Args:
        program: Python that prints a line after each commit; its first argument is the cluster.
        after: how many commits are seen before each kill.
    """
    command = [sys.executable, "-c", program, cluster.bootstrap_servers, *map(str, arguments)]
    for commits in after:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout
            seen = [child.stdout.readline() for _ in range(commits)]
            assert all(seen), "ended before it was killed"
            os.kill(child.pid, signal.SIGKILL)
