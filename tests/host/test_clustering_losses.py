"""Losses `deepcluster_v2` and `sela_v2` behind the host's interface, without a run."""

import gloo
import host_programs
import pytest
import torch

NAMES = ["DeepClusterV2Prediction", "SeLaV2Prediction"]


@pytest.fixture(params=NAMES)
def loss(host, request):
    from vissl_swav.host import clustering_losses

    loss_class = getattr(clustering_losses, request.param)
    return loss_class.from_config(host_programs.clustering_config())


def test_only_training_writes_the_bank(loss):
    loss.eval()
    host_programs.clustering_step(loss, torch.arange(6), seed=0)
    assert len(loss.method.bank) == 0
    loss.train()
    host_programs.clustering_step(loss, torch.arange(6), seed=0)
    assert len(loss.method.bank) == 6


def test_images_without_labels_add_nothing(loss):
    """Before the first assignment the loss is zero, never NaN."""
    assert host_programs.clustering_step(loss, torch.arange(6), seed=0) == 0


def test_unreadable_images_stay_out_of_the_bank(loss):
    Z = host_programs.unit_rows(6)
    loss.images = torch.tensor([4, 5, 6])
    loss.valid = torch.tensor([True, False, True])
    loss([Z, Z[:, :1].repeat(1, 5), Z[:, :3]], None)
    assert loss.method.bank.images().tolist() == [4, 6]


def test_unreadable_images_train_nothing(loss):
    """The host hands on a grey image: it must not be taught its image's label."""
    method, Z = loss.method, host_programs.unit_rows(6)
    scores = [Z, Z @ host_programs.unit_rows(5).t(), Z @ host_programs.unit_rows(3).t()]
    method.labels.labels.fill_(1)
    loss.eval()
    loss.images = torch.tensor([4, 5, 6])
    losses = []
    for valid in ([True, True, True], [True, False, True], [False, False, False]):
        loss.valid = torch.tensor(valid)
        losses.append(loss(scores, None))
    rows = [torch.cat([s[[0, 2]], s[[3, 5]]]) for s in scores[1:]]
    of_valid = sum(
        torch.nn.functional.cross_entropy(s / 0.1, torch.ones(4).long()) for s in rows
    )
    torch.testing.assert_close(losses[1], of_valid / 2)
    assert losses[0] != losses[1] and losses[2] == 0


def test_a_step_without_images_is_an_error(loss):
    with pytest.raises(RuntimeError, match="which images the batch holds"):
        loss([torch.zeros(4, 4), torch.zeros(4, 5), torch.zeros(4, 3)], None)


def test_another_number_of_images_is_refused(loss):
    config = host_programs.clustering_config(num_images=22)
    other = type(loss).from_config(config)
    with pytest.raises(ValueError, match="labels are of 21 images.*data has 22"):
        other.load_state_dict(loss.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_every_rank_gets_its_own_bank_back(host, name, caplog):
    from vissl_swav.host import clustering_losses

    results = gloo.run(host_programs.save_and_load_bank, 2, name)
    for same_state, same_loss, _ in results:
        assert same_state and same_loss
    state = results[0][2]
    loss_class = getattr(clustering_losses, name)
    alone = loss_class.from_config(host_programs.clustering_config())
    with caplog.at_level("WARNING"):
        alone.load_state_dict(dict(state))
    assert "bank of 2 ranks was dealt out to 1" in caplog.text
    # Ranks saw images 0, 2, .. 14 and 1, 3, .. 13, both saw 20.
    assert alone.method.bank.images().tolist() == [*range(15), 20]
    assert int(alone.method.assigned_epoch) == 0
    labels = alone.method.labels.labels
    torch.testing.assert_close(labels, state["method.labels.labels"])
    # Image 0 was seen by both ranks in the last step: the later rank's row stays.
    others = state["_extra_state"]["other_ranks"][0]
    row = others["features"][:, others["index"].tolist().index(0)]
    torch.testing.assert_close(alone.method.bank.features[:, 0], row)
