"""What `vissl_swav.pth` calls at interpreter start: arm the hook, and nothing else.

The first `import vissl` or `import classy_vision` of the process, from whatever
program, then applies the shims (`vissl_swav.compat.apply`) and arms the registration
of our losses, hooks and transforms (`vissl_swav.host.registration.arm`). Spawned,
forkserver and submitit children start an interpreter of their own and so do the same.
The first `import torchvision` gets what it needs beside a torch that it was not built
for, so that timm, lightly and Lightning, which import it, load too.

``VISSL_SWAV_AUTO=0`` switches it off. This file must stay light: no import but these.
"""

from __future__ import annotations

import os

from vissl_swav.compat import import_hook

HOST_PACKAGES = ("vissl", "classy_vision")
SWITCH = "VISSL_SWAV_AUTO"
_KEY = "vissl_swav.compat.startup.on_host_import"
_TORCHVISION_KEY = "vissl_swav.compat.startup.on_torchvision_import"


def is_switched_off() -> bool:
    """Say whether the environment asks for the host without us."""
    return os.environ.get(SWITCH, "1").strip().lower() in ("0", "false", "no", "off")


def install() -> bool:
    """Arm the hook for the host's packages, unless it is switched off.

    Returns:
        Whether it is armed (or has already done its work).
    """
    if is_switched_off():
        return False
    import_hook.before_import(HOST_PACKAGES, on_host_import, key=_KEY)
    import_hook.before_import(
        ("torchvision",), on_torchvision_import, key=_TORCHVISION_KEY
    )
    return True


def on_host_import() -> None:
    """Apply the shims, then let `vissl_swav.host` arm its registrations.

    Raises:
        Exception: whatever goes wrong in there. Only a `vissl_swav.host` that is not
            there is passed over: compat stands alone.
    """
    from importlib import import_module
    from importlib.util import find_spec

    from vissl_swav import compat

    compat.apply()
    try:
        registration = find_spec("vissl_swav.host.registration")
    except ModuleNotFoundError as error:
        if error.name != "vissl_swav.host":
            raise
        registration = None
    if registration is not None:
        import_module(registration.name).arm()


def on_torchvision_import() -> None:
    """Declare the operators that torchvision lacks; on a matching pair nothing."""
    from importlib.util import find_spec

    if find_spec("torch") is not None:  # Else torchvision itself says what is missing.
        from vissl_swav.compat import torchvision_ops

        torchvision_ops.declare_missing_schemas()


def status() -> str:
    """Say in one phrase how the hook stands, for `vissl-swav --version`."""
    if is_switched_off():
        return f"import hook switched off ({SWITCH}={os.environ[SWITCH]})"
    if import_hook.is_installed():
        return "import hook installed"
    return "import hook not installed (vissl_swav.pth is missing or has not run)"
