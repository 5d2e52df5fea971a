"""`vissl-swav train config=... key=value ...`, also `python -m vissl_swav.train`.

Takes the overrides of the host's own command line. Spawned children import this module
again before they unpickle anything of the host, so the shims are in place there as
well.
"""

import importlib.util
import sys
from collections.abc import Sequence

from vissl_swav import compat

INSTALL_LINE = (
    "VISSL is not installed. Install it, and what it needs, with\n"
    "    pip install vissl_swav && pip install --no-deps vissl==0.1.6"
)


def have_host() -> bool:
    """Whether VISSL can be imported."""
    return importlib.util.find_spec("vissl") is not None


if have_host():
    from vissl_swav.host import registration

    registration.arm()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs; returns the exit code (2 for a refused start, 1 for an early end)."""
    overrides = list(sys.argv[1:] if arguments is None else arguments)
    if not have_host():
        print(INSTALL_LINE, file=sys.stderr)
        return 2
    from vissl_swav.host.endings import ending_of
    from vissl_swav.host.launch import start

    compat.apply()
    try:
        start(overrides)
    except Exception as error:
        ending = ending_of(error)
        if ending is None:
            raise
        if ending.traceback is not None:
            print(f"{ending.traceback}\n", file=sys.stderr)
        print(f"vissl-swav train: {ending.message}", file=sys.stderr)
        return ending.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
