"""`COPY_TO_LOCAL_DISK`: the host's functions for a copy of the data."""

import os

import pytest

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture
def data(tmp_path):
    """A folder of two classes, and a list."""
    for name in ("a/1.png", "b/2.png"):
        path = tmp_path / "from" / "train" / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    (tmp_path / "from" / "list.npy").write_text("list")
    return tmp_path / "from"


def copied(paths, folder):
    from vissl.utils.io import copy_data_to_local

    scratch = folder.parent / "scratch"
    return copy_data_to_local(
        [str(path) for path in paths], str(folder), tmp_destination_dir=str(scratch)
    )


def test_a_folder_and_again(data, tmp_path):
    """Twice in one call, as where the classes are the labels, and once more."""
    from vissl.data.dataset_catalog import get_local_path

    train, folder = data / "train", tmp_path / "to"
    for _ in range(2):
        files, place = copied([train, train], folder)
        assert files == [str(folder / "train")] * 2
        assert (folder / "train" / "b" / "2.png").read_text() == "b/2.png"
        # The host hands on the place, and looks there for the folder.
        assert get_local_path(str(train), place) == str(folder / "train")
    assert get_local_path(str(data / "other"), place) == str(data / "other")


def test_what_a_broken_copy_left_is_completed(data, tmp_path):
    half = tmp_path / "to" / "train" / "a"
    half.mkdir(parents=True)
    copied([data / "train"], tmp_path / "to")
    assert sorted(p.name for p in half.parent.iterdir()) == ["a", "b", "copy_complete"]


def test_a_file_and_again(data, tmp_path):
    from vissl.data.dataset_catalog import get_local_path

    for _ in range(2):
        files, place = copied([data / "list.npy"], tmp_path / "to")
        assert files == [str(tmp_path / "to" / "list.npy")]
        assert os.listdir(tmp_path / "to") == ["list.npy"]
    assert get_local_path(str(data / "list.npy"), place) == files[0]


@pytest.mark.parametrize("name", ["train", "list.npy"])
def test_data_in_the_folder_that_the_host_deletes_are_refused(data, name):
    with pytest.raises(ValueError, match="VISSL deletes that folder"):
        copied([data / name], data)
    assert (data / name).exists()
