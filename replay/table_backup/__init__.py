"""Backups of an app's tables: taken, stored, checked, and restored."""
