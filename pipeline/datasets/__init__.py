"""What is on disk: layouts and evaluation protocols. Knows neither DALI nor torch."""
