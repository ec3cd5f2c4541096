"""Backups of an app's tables: writing, checking and restoring them."""
