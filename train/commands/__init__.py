"""What each command takes and whom it calls; heavy imports wait for the call."""
