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
    """Runs; returns the exit code (2 for a start that is refused, 1 for bad data)."""
    overrides = list(sys.argv[1:] if arguments is None else arguments)
    if not have_host():
        print(INSTALL_LINE, file=sys.stderr)
        return 2
    from torch.multiprocessing.spawn import ProcessRaisedException

    from vissl_swav.data.errors import DataError
    from vissl_swav.health.errors import RunStopped
    from vissl_swav.host.errors import StartError
    from vissl_swav.host.launch import start

    compat.apply()
    try:
        start(overrides)
    except StartError as error:
        print(f"vissl-swav train: {error}", file=sys.stderr)
        return 2
    except (DataError, RunStopped) as error:
        print(f"vissl-swav train: {error}", file=sys.stderr)
        return 1
    except ProcessRaisedException as error:
        # The rank's traceback, then what it says last, where a reader looks first.
        text = str(error).rstrip()
        last = text.splitlines()[-1].partition(": ")[2] or text
        print(f"{text}\n\nvissl-swav train: {last}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
