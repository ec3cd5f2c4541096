"""The commands of `anabranch`, a file each; what they need is imported when they run, so `--help` is quick."""
