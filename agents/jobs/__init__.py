"""Ready-made jobs: small apps to start from, and what `make demo` runs."""
