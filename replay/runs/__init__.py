"""Bounded runs (`anabranch run`), the list of runs, and pools of worker processes (also for `worker --processes`)."""
