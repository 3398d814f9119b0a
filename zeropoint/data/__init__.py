"""Samples: in files or in memory, as batches that a model takes."""
