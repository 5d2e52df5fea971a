"""Which network interface the processes of a run talk over, in words."""

import os
import socket
from pathlib import Path

_INTERFACE = {"gloo": "GLOO_SOCKET_IFNAME", "nccl": "NCCL_SOCKET_IFNAME"}
_ROUTES = Path("/proc/net/route")


def interface(backend: str) -> str:
    """The network interface of a backend's traffic, as far as it can be told."""
    variable = _INTERFACE.get(backend, "GLOO_SOCKET_IFNAME")
    chosen = os.environ.get(variable)
    if chosen:
        return f"{chosen} ({variable})"
    default = _default_interface()
    return f"{default or 'unknown'} (default route; {variable} is not set)"


def _default_interface() -> str | None:
    try:
        lines = _ROUTES.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return None
    fields = [line.split() for line in lines]
    return next((f[0] for f in fields if len(f) > 1 and f[1] == "00000000"), None)


def describe(backend: str, rank: int, world_size: int) -> str:
    """This process, its host and its interface, for a message."""
    return (
        f"rank {rank} of {world_size} on host {socket.gethostname()}, interface "
        f"{interface(backend)}, backend {backend}"
    )


def cure(backend: str, limit: str) -> str:
    """What to look at when processes do not find each other.

    Args:
        backend: "gloo" or "nccl".
        limit: the environment variable of the time limit.
    """
    variable = _INTERFACE.get(backend, "GLOO_SOCKET_IFNAME")
    return (
        f"Name the interface that connects the machines by {variable}, open their "
        f"firewalls to each other, and give slow starters more time by {limit}."
    )
