"""From a paired batch to features, logits and losses."""
