"""`anabranch dlq replay` in a world of tests."""

from __future__ import annotations

from typing import Any

from anabranch import World
from anabranch.replay.dead_letters.dead_letter_reader import DeadLetterFilter
from anabranch.replay.dead_letters.republisher import Republication, Republisher
from anabranch.replay.late_history import count_late_letters

__all__ = ["replay_letters"]


def replay_letters(world: World, topic: str, **chosen: Any) -> Republication:
    """Re-publish the dead letters of a topic, none of which may be late, and let the worker process them."""
    with world.environment.entered():
        cluster = world.environment.kafka.cluster()
        letters = Republisher(cluster, f"{topic}.dlq", **chosen)
        left = [letter for letter, _ in letters.read(DeadLetterFilter())]
        assert not count_late_letters(cluster, left, None, now=False)
        report = letters.republish(DeadLetterFilter())
    world.worker().kill()  # it looks for retry topics when it starts
    world.worker().start()
    world.settle()
    return report
