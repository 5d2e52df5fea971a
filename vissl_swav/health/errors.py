"""The errors by which a watched run ends itself, on all ranks alike."""


class RunStopped(RuntimeError):
    """The run cannot go on usefully; the message is for the user.

    The last checkpoint is whole: none is written in the step that ends a run.
    """


class Collapsed(RunStopped):
    """`ON_COLLAPSE: stop` met a collapse."""


class NotFinite(RunStopped, FloatingPointError):
    """A loss or a gradient is not finite."""
