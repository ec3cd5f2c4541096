"""The `anabranch` command: one file a subcommand, its output beside it.

Commands import what they need when they run, so that `--help` is quick.
"""
