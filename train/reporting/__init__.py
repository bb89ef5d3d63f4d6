"""Reports on a run: charts and an HTML page."""
