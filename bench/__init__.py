"""Measurements of the pipeline and the training step."""
