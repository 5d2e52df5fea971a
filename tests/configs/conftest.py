import copy
import sys
import warnings
from pathlib import Path

import pytest

# The catalogue is a plain module beside these tests.
sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(scope="session")
def compose(host):
    """`compose(*overrides)` as the host's command line does; each once a session."""
    from vissl_swav.host.registration import arm

    arm()
    with warnings.catch_warnings():
        # What the host imports is deprecated here and there.
        warnings.simplefilter("ignore")
        import vissl.hooks
        import vissl.models
        import vissl.trainer  # noqa: F401
        from vissl.utils.hydra_config import compose_hydra_configuration

    seen = {}

    def compose(*overrides):
        if overrides not in seen:
            seen[overrides] = compose_hydra_configuration(list(overrides))
        return seen[overrides].copy()

    return compose


@pytest.fixture(scope="session")
def complete(compose):
    """`complete(*overrides)`: composed and inferred, as the engines get it."""
    from vissl.utils.hydra_config import convert_to_attrdict

    seen = {}

    def complete(*overrides):
        if overrides not in seen:
            composed = compose(*overrides)
            seen[overrides] = convert_to_attrdict(composed, dump_config=False)[1]
        return copy.deepcopy(seen[overrides])

    return complete
