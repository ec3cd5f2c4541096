"""The HTTP interface of a worker: tables, health checks and metrics."""
