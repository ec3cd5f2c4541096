"""`anabranch dlq replay` in a world of tests."""

from __future__ import annotations

from typing import Any

from anabranch import World
from anabranch.replay.dead_letters.dead_letter_reader import DeadLetterFilter
from anabranch.replay.dead_letters.republisher import Republication, Republisher
from anabranch.replay.late_history import count_late_letters

__all__ = ["replay_letters", "replay_letters_and_kill_worker"]


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


def replay_letters_and_kill_worker(world: World, topic: str, after_s: int) -> Republication:
    """Re-publish the dead letters of a topic, and kill the worker at once, and again some seconds later."""
    with world.environment.entered():
        report = Republisher(world.environment.kafka.cluster(), f"{topic}.dlq").republish(DeadLetterFilter())
    for pause_s in (after_s, 10):
        world.worker().kill()
        world.worker().start()
        world.advance(f"{pause_s}s")
    world.settle()
    return report
