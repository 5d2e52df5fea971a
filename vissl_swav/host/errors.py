"""The error that ends a start before training begins: one message, exit code 2."""


class StartError(ValueError):
    """Something about configuration, data or machine makes the run impossible.

    The message says what was got, what was wanted and how to fix it; the command line
    prints it alone and exits with code 2.

    Args:
        message: the sentence(s) for the user.
        key: the dotted config key at fault, if there is one.
    """

    def __init__(self, message: str, *, key: str | None = None):
        super().__init__(message)
        self.key = key
