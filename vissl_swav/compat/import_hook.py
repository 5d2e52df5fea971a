"""One finder that tells us when a host module is about to run or has just run.

`before_import(("vissl",), fn)` calls `fn()` right before the top-level package's own
code runs; `after_import("vissl.hooks", fn)` calls `fn(module)` right after that
module's code has run, before anybody else can read a name from it. Nothing is imported
here, and a module nobody asked about costs one dictionary look-up.

The loader is not replaced: its `exec_module` is shadowed for the one call, so that
`__loader__` and `__spec__` of the host's modules are what they would be without us.

Only light modules are imported at the top: this file is loaded at interpreter start.
"""

from __future__ import annotations

import sys
from _thread import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    Patch = Callable[[ModuleType], object]


class HostPatchError(RuntimeError):
    """A callback of ours failed while a host module was being imported."""


class _Finder:
    """The `sys.meta_path` entry: finds nothing itself, shadows what others find."""

    def __init__(self) -> None:
        self.lock = RLock()
        # Root package -> key -> callback; emptied as they are called.
        self.before: dict[str, dict[str, Callable[[], object]]] = {}
        # Module -> key -> callback; kept, so that a reload is patched again.
        self.after: dict[str, dict[str, Patch]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target=None
    ) -> ModuleSpec | None:
        """Return the others' spec with a shadowed `exec_module`, or None."""
        if fullname not in self.after and fullname not in self.before:
            return None
        spec = self._find_by_others(fullname, path, target)
        if spec is not None and spec.loader is not None:
            self._shadow_exec_module(spec.loader)
        return spec

    def _find_by_others(self, fullname, path, target) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                return spec
        return None

    def _shadow_exec_module(self, loader) -> None:
        if "exec_module" in vars(loader):
            return

        def exec_module(module: ModuleType) -> None:
            # Removed first: the loader of a zip file serves many modules.
            vars(loader).pop("exec_module", None)
            name = module.__spec__.name if module.__spec__ else module.__name__
            self.run_before(name)
            loader.exec_module(module)
            self.run_after(name, module)

        loader.exec_module = exec_module

    def run_before(self, root: str) -> None:
        """Call what waits for `root`, each callback once."""
        with self.lock:
            for key, callback in list(self.before.get(root, {}).items()):
                # One callback may wait for several roots: the first import counts.
                waiting = [keys for keys in self.before.values() if key in keys]
                for keys in waiting:
                    del keys[key]
                try:
                    self._call(key, root, callback)
                except HostPatchError:
                    # A second try at the import must not get an unprepared host.
                    for keys in waiting:
                        keys[key] = callback
                    raise

    def run_after(self, name: str, module: ModuleType) -> None:
        """Call every callback armed for the module `name`."""
        with self.lock:
            for key, callback in list(self.after.get(name, {}).items()):
                self._call(key, name, callback, module)

    @staticmethod
    def _call(key: str, name: str, callback: Callable[..., object], *arguments) -> None:
        try:
            callback(*arguments)
        except Exception as error:
            raise HostPatchError(
                f"vissl_swav could not prepare the host module {name!r}: "
                f"{key} failed with {type(error).__name__}: {error}. Set "
                "VISSL_SWAV_AUTO=0 to use the host without vissl_swav."
            ) from error


_FINDER = _Finder()


def _install() -> None:
    """Put the finder first, so that no other hands out a module before we see it.

    pytest, for one, puts its own before ours and takes `tools.nearest_neighbor_test`
    for a test. Assigned in one step: another thread that is iterating may see a finder
    twice, but skips none.
    """
    if sys.meta_path[:1] != [_FINDER]:
        sys.meta_path[:] = [_FINDER, *(f for f in sys.meta_path if f is not _FINDER)]


def is_installed() -> bool:
    """Say whether the finder sits on `sys.meta_path`."""
    return _FINDER in sys.meta_path


def _key(callback: Callable[..., object], key: str | None) -> str:
    return key or f"{callback.__module__}.{callback.__qualname__}"


def before_import(
    root_package_names: Sequence[str],
    callback: Callable[[], object],
    *,
    key: str | None = None,
) -> None:
    """Call `callback()` once, before the first of these packages runs its code.

    Args:
        root_package_names: top-level packages, such as ``("vissl",)``.
        callback: takes nothing; called at once if one of them is imported already.
        key: its identity, by default its qualified name. The same key again replaces
            the callback, so that arming twice calls once.
    """
    key = _key(callback, key)
    with _FINDER.lock:
        if any(name in sys.modules for name in root_package_names):
            _FINDER._call(key, root_package_names[0], callback)
            return
        for name in root_package_names:
            _FINDER.before.setdefault(name, {})[key] = callback
        _install()


def after_import(
    module_name: str,
    callback: Callable[[ModuleType], object],
    *,
    key: str | None = None,
) -> None:
    """Call `callback(module)` right after the module's code has run.

    Called at once if the module is in `sys.modules`, and again after a reload: a
    callback must bear being called twice.

    Args:
        module_name: full name, such as ``"vissl.hooks"``; it is not imported.
        callback: takes the module.
        key: its identity, by default its qualified name; arming twice calls once.
    """
    key = _key(callback, key)
    with _FINDER.lock:
        armed = _FINDER.after.setdefault(module_name, {})
        if key in armed:
            return
        armed[key] = callback
        _install()
        module = sys.modules.get(module_name)
        if module is not None:
            _FINDER._call(key, module_name, callback, module)
