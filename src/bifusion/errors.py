"""What the user is told of bad input. Nothing is imported here: help must not wait for torch."""


class InputError(ValueError):
    """Bad input from the user: names the file or argument, what was found and expected, what to do.

    The command line prints its message without a traceback and leaves with status 2.
    """


class SomeFailedError(InputError):
    """Of many inputs some are bad, each of which is named; all others are done.

    The command line leaves with status 1.
    """


FAILURES = (InputError, OSError, MemoryError)
"""What one bad input of many may raise; the others are not stopped by it."""


def failure(error: BaseException, what: object) -> str:
    """A line on one of FAILURES that `what` met."""
    if isinstance(error, InputError):
        return str(error)
    reason = "it takes more memory than there is" if isinstance(error, MemoryError) else error
    return f"{what}: {reason}"
