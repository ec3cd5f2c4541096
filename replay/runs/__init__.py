"""Bounded runs, and the worker processes of runs and of `worker --processes`."""
