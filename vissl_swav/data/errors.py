"""The one error of this folder."""


class DataError(ValueError):
    """Data that cannot be used; the message says what was got, wanted, and the remedy.

    The command line prints it and exits with code 2 before training starts.
    """
