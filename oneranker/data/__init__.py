"""Interaction data: tables described by a schema.toml, ready adapters, streams for training, floors and metrics."""
