"""What a worker answers over HTTP: tables, health, metrics."""
