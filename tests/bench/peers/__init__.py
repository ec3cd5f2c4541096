"""Alternatives to anabranch, each in an environment of its own; see `comparing.py`."""
