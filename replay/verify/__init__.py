"""Compares histories, topics and tables: the same records, or the first differences."""
