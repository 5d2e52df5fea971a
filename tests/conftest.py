import importlib
import importlib.util
import os
import sys
import warnings
from pathlib import Path

import pytest

# One thread a process: the multi-process tests share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
# Oracles and the gloo runner are plain modules beside the tests (`tests` itself is a
# package of the host's wheel, so it cannot be ours). Spawned children need the path
# too.
sys.path.insert(0, str(TESTS))


def shared_folder() -> Path | None:
    """Goldens and data: `$VISSL_SWAV_SHARED`, else `../shared` beside the checkout."""
    folder = Path(os.environ.get("VISSL_SWAV_SHARED", ROOT.parent / "shared"))
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = shared_folder()
    if folder is None:
        pytest.skip("no shared goldens and data; set VISSL_SWAV_SHARED")
    return folder


@pytest.fixture(scope="session")
def host():
    """Skips where VISSL is not installed; applies the shims where it is."""
    if importlib.util.find_spec("vissl") is None:
        pytest.skip("VISSL is not installed")
    from vissl_swav.host import registration

    registration.arm()
    # What VISSL's own files warn of when they are imported is not ours to mend.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("hooks", "trainer", "utils.hydra_config", "utils.checkpoint"):
            importlib.import_module(f"vissl.{name}")


def pytest_collection_modifyitems(items):
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
