import gloo
import host_programs
import pytest
import torch


@pytest.fixture
def loss(host):
    from vissl_swav.host.swav_loss import SwAVSwappedPrediction

    return SwAVSwappedPrediction.from_config(host_programs.loss_config(queue=8))


def test_state_round_trip(loss):
    host_programs.push(loss, seed=1)
    copy = type(loss).from_config(host_programs.loss_config(queue=8))
    copy.load_state_dict(loss.state_dict())
    assert torch.equal(copy.swav.queue.features, loss.swav.queue.features)
    assert copy.swav.queue.is_full == loss.swav.queue.is_full
    assert copy.swav._num_steps == 1


def test_only_training_counts_and_fills(loss):
    loss.eval()
    host_programs.push(loss, seed=1)
    assert int(loss.swav.num_steps) == 0 and int(loss.swav.queue.num_filled) == 0


def test_a_queue_of_another_length_starts_empty_and_says_so(loss, caplog):
    host_programs.push(loss, seed=1)
    other = type(loss).from_config(host_programs.loss_config(queue=12))
    with caplog.at_level("WARNING"):
        other.load_state_dict(loss.state_dict())
    assert not other.swav.queue.is_full and int(other.swav.queue.num_filled) == 0
    assert "starts empty" in caplog.text
    assert int(other.swav.num_steps) == 1


def test_every_rank_gets_its_own_queue_back(loss, caplog):
    """And one rank gets all of it, where the queue is as long in all."""
    results = gloo.run(host_programs.save_and_load, 2)
    for kept, differs, _ in results:
        assert kept and differs
    whole = type(loss).from_config(host_programs.loss_config(queue=16))
    with caplog.at_level("WARNING"):
        whole.load_state_dict(dict(results[0][2]))
    assert "queue of 2 ranks was dealt out to 1" in caplog.text
    assert int(whole.swav.queue.num_filled) == 8
    rows = whole.swav.queue.features[0, :8]
    first = results[0][2]["swav.queue.features"][0, :4]
    torch.testing.assert_close(rows[::2], first)


def test_hard_codes_for_the_first_steps(host):
    from vissl_swav.host.swav_loss import SwAVSwappedPrediction

    config = {**host_programs.loss_config(queue=0), "hard_codes_steps": 1}
    loss = SwAVSwappedPrediction.from_config(config)
    plain = SwAVSwappedPrediction.from_config(host_programs.loss_config(queue=0))
    output = host_programs.output(seed=3)
    first, second = loss(output, None), loss(output, None)
    soft = plain(output, None)
    assert first != soft
    torch.testing.assert_close(second, soft)
