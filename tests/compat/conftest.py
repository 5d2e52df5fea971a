import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(scope="session")
def host(host):
    """The host, imported: its imports warn of what is deprecated in torchvision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import vissl.trainer
        import vissl.utils.cluster_utils  # noqa: F401
    return host
