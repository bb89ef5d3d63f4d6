"""The training itself: configuration, step, loop, DHSM, evaluation, reporting."""
