"""`python -m anabranch`: the `anabranch` command."""

from .replay.cli import main

main()
