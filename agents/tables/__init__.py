"""Tables: what agents see of them, the stores under them, and their changelogs."""
