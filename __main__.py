"""`python -m anabranch`: the `anabranch` command."""

from .replay.cli.entry import main

main()
