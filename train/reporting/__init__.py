"""What a run says while it runs and leaves behind."""
