import pytest

import vissl_swav.compat


@pytest.fixture(scope="session")
def torchvision_datasets():
    """torchvision.datasets; its wheel may lack compiled ops, which compat mends."""
    vissl_swav.compat.apply()
    import torchvision.datasets

    return torchvision.datasets


@pytest.fixture(scope="session")
def image_folder(torchvision_datasets):
    return torchvision_datasets.ImageFolder
