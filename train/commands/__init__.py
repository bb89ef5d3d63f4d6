"""The commands' arguments; heavy imports happen only when a command is called."""
