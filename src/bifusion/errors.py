"""What the user is told of bad input. Nothing is imported here: help must not wait for torch."""


class InputError(ValueError):
    """Bad input from the user: names the file or argument, what was found and expected, what to do.

    The command line prints its message without a traceback and leaves with status 2.
    """
