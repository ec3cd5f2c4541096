"""Flows: pipelines of plain functions, made into agents."""
