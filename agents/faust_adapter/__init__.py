"""Adapters between Faust and the engine: transport, consumer, settings and values."""
