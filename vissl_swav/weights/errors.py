"""The error of this package."""


class WeightsError(ValueError):
    """A file does not hold the weights that were asked for, or they do not fit.

    The message says what was got, what was wanted and how to go on.
    """
