"""What users would pick instead of anabranch, each in an environment of its own: see `comparing.py`."""
