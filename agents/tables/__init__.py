"""Tables: the dicts that agents use, their stores, and their changelogs."""
