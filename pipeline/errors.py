"""The one exception that means: what the user gave cannot work, and here is the mend."""


class InputError(ValueError):
    """Wrong use or bad input; the command line prints its one line and exits with status 2."""
