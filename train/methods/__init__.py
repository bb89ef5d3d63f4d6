"""One file a published method; base.py holds what a method may change, with CDP's choices."""
