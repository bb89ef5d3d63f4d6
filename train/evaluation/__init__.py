"""From features to retrieval figures."""
