"""Whether two histories hold the same records."""
