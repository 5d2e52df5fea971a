import copy

import pytest
import torch

from vissl_swav.compat import sync_bn

pytestmark = pytest.mark.usefixtures("host")


def _config(sync_bn_type, group_size, num_processes):
    from vissl.config import AttrDict

    settings = {"SYNC_BN_TYPE": sync_bn_type, "GROUP_SIZE": group_size}
    return AttrDict(
        {
            "MODEL": {"SYNC_BN_CONFIG": settings},
            "DISTRIBUTED": {"NUM_PROC_PER_NODE": num_processes, "NUM_NODES": 1},
        }
    )


def _groups_made(monkeypatch, sync_bn_type, group_size, num_processes, rank):
    """Convert a model as the process `rank` would; return groups and model."""
    from vissl.models import model_helpers

    made = []
    # The group itself is its list of ranks: nothing here needs to communicate.
    monkeypatch.setattr(
        model_helpers.dist, "new_group", lambda ranks: made.append(ranks) or ranks
    )
    monkeypatch.setattr(
        model_helpers, "get_machine_local_and_dist_rank", lambda: (rank, rank)
    )
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    config = _config(sync_bn_type, group_size, num_processes)
    converted = model_helpers.convert_sync_bn(config, model)
    return made, converted, config


@pytest.mark.parametrize("group_size", [-1, 0, 2, 3])
@pytest.mark.parametrize("rank", [0, 3])
def test_apex_becomes_torchs_with_the_same_groups(
    monkeypatch, caplog, group_size, rank
):
    with caplog.at_level("INFO"):
        made, model, config = _groups_made(monkeypatch, "apex", group_size, 4, rank)
    reference = _groups_made(monkeypatch, "pytorch", group_size, 4, rank)
    assert made == reference[0]
    assert isinstance(model[1], torch.nn.SyncBatchNorm)
    assert model[1].process_group == reference[1][1].process_group
    if group_size == 2:
        assert model[1].process_group == ([0, 1] if rank == 0 else [2, 3])
    assert "torch.nn.SyncBatchNorm in place of apex's" in caplog.text
    assert config.MODEL.SYNC_BN_CONFIG.SYNC_BN_TYPE == "apex"


def test_the_configuration_is_only_read():
    config = _config("apex", 2, 4)
    before = copy.deepcopy(config)
    view = sync_bn._asking_for_torch(config)
    assert view.MODEL.SYNC_BN_CONFIG["SYNC_BN_TYPE"] == "pytorch"
    assert config == before


def test_an_unknown_type_is_still_an_error(monkeypatch):
    with pytest.raises(KeyError):
        _groups_made(monkeypatch, "cuda", 0, 1, 0)
