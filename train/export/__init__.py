"""Exports a trained retrieval network as one file for use in other programs."""
