"""Evaluation: from features to retrieval figures."""
