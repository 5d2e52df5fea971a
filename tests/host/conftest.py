import host_runs
import pytest


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return host_runs.make_images(tmp_path_factory.mktemp("images") / "train")


@pytest.fixture(scope="session")
def compose(host, images, tmp_path_factory):
    """`compose(*extra)`: the inferred config of the tiny run."""
    from vissl_swav.host.launch import compose

    folder = tmp_path_factory.mktemp("unused")
    return lambda *extra, **settings: compose(
        host_runs.overrides(images, folder, *extra, **settings)
    )[1]
