"""Finds and opens files: local or remote, compressed, or inside zip archives."""
