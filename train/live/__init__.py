"""Terminal and TensorBoard output during a run."""
