"""A trained retrieval network as one file, for programs that know nothing of its training."""
