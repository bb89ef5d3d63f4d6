"""The paper's tables and figures as reproducible experiments."""
