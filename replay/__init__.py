"""History back into the stream."""
