"""Data sets on disk: layouts and evaluation protocols. Imports neither DALI nor torch."""
