"""`cdp doctor`: what this machine offers, what is on or off, and why."""
