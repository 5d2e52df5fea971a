import io
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from vissl_swav.compat.checkpoint_loading import load_checkpoint

pytestmark = pytest.mark.usefixtures("host")


class Unlisted:
    """Something that a checkpoint has no business to hold."""


def _saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    buffer.seek(0)
    return buffer


def _attr_dict(content):
    from vissl.config import AttrDict

    return AttrDict(content)


def test_a_checkpoint_with_its_configuration_round_trips():
    config = _attr_dict({"A": {"B": [1, {"C": 2}], "D": torch.float16}, "E": None})
    weights = OrderedDict(w=torch.arange(3.0))
    weights._metadata = {"": {"version": 1}}
    content = {
        "config": config,
        "again": (config, [config]),
        "model": weights,
        "losses": [np.float64(0.5), np.float32(0.25), np.int64(3)],
        "array": np.arange(6, dtype=np.int16).reshape(2, 3),
        "text": np.array(["a", "bc"]),
    }
    loaded = load_checkpoint(_saved(content), map_location="cpu")
    assert type(loaded["config"]) is type(config)
    assert loaded["config"] == config
    assert type(loaded["config"].A) is type(config)
    assert loaded["config"].A.D is torch.float16
    # One object stays one object.
    assert loaded["again"][0] is loaded["config"] is loaded["again"][1][0]
    assert type(loaded["model"]) is OrderedDict
    assert loaded["model"]._metadata == weights._metadata
    assert torch.equal(loaded["model"]["w"], weights["w"])
    assert loaded["losses"] == [0.5, 0.25, 3]
    assert np.array_equal(loaded["array"], content["array"])
    assert loaded["array"].dtype == np.int16
    assert loaded["text"].tolist() == ["a", "bc"]


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_both_of_numpys_names_are_read(module):
    raw = _saved([np.float64(0.5)])
    # A file from the other numpy, of equal length once its name is padded: patch the
    # pickle inside the archive instead.
    import zipfile

    other = io.BytesIO()
    with zipfile.ZipFile(raw) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                for known in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
                    data = data.replace(b"c" + known + b"\n", b"c\0")
                data = data.replace(b"c\0", b"c" + module.encode() + b"\n")
            new.writestr(name, data)
    other.seek(0)
    assert load_checkpoint(other) == [0.5]


def test_an_older_vissls_name_of_the_class_is_read():
    raw = _saved(_attr_dict({"A": 1})).getvalue()
    import zipfile

    other = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            data = data.replace(b"vissl.config.attr_dict", b"vissl.utils.hydra_config")
            new.writestr(name, data)
    other.seek(0)
    loaded = load_checkpoint(other)
    assert type(loaded).__name__ == "AttrDict" and loaded.A == 1


def test_anything_else_is_refused_by_name():
    with pytest.raises(pickle.UnpicklingError, match="Unlisted") as refusal:
        load_checkpoint(_saved({"x": Unlisted()}))
    assert "add_safe_globals" in str(refusal.value)
    assert "Refused to load" in str(refusal.value)


def test_code_is_not_run(tmp_path):
    mark = tmp_path / "was_run"

    class Evil:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(_saved(Evil()))
    assert not mark.exists()


def test_the_list_is_there_only_during_the_load():
    before = set(torch.serialization.get_safe_globals())
    load_checkpoint(_saved(_attr_dict({"A": 1})))
    assert set(torch.serialization.get_safe_globals()) == before


def test_only_the_hosts_modules_see_it():
    from classy_vision.generic import util
    from vissl.utils import checkpoint, cluster_utils

    for module in (util, checkpoint, cluster_utils):
        assert module.torch.load is load_checkpoint
        assert module.torch.save is torch.save
    assert torch.load is not load_checkpoint


def test_a_cluster_assignment_goes_through_the_hosts_own_file(tmp_path):
    from vissl.utils.cluster_utils import ClusterAssignment, ClusterAssignmentLoader

    assignment = ClusterAssignment(
        config=_attr_dict({"DATA": {"TRAIN": {}}}),
        cluster_assignments={"TRAIN": {0: 4}},
    )
    ClusterAssignmentLoader.save_cluster_assignment(str(tmp_path), assignment)
    loaded = ClusterAssignmentLoader.load_cluster_assigment(
        str(tmp_path / "cluster_assignments.torch")
    )
    assert loaded == assignment
    assert type(loaded.config.DATA) is type(assignment.config)
