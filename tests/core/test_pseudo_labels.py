"""Labels of all images on every rank, against a dict."""

import pytest
import torch
import virtual_ranks

from vissl_swav.core.pseudo_labels import NO_LABEL, PseudoLabels

H, N = 3, 29


def draw(num_labels, *, seed=0, images=tuple(range(N))):
    """Labels and weights of some images: `{image: ((H, L), (H, L))}`."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(len(images), H, num_labels, generator=generator)
    weights /= weights.sum(dim=2, keepdim=True)
    labels = torch.randint(3000, weights.shape, generator=generator)
    return dict(zip(images, zip(labels, weights, strict=True), strict=True))


def told(oracle, images):
    """The arguments of `publish` for these images of the oracle."""
    labels = torch.stack([oracle[i][0] for i in images], dim=1)
    weights = torch.stack([oracle[i][1] for i in images], dim=1)
    return torch.tensor(images), labels, weights if labels.shape[2] > 1 else None


def assert_holds(labels, oracle, num_labels):
    found, weights = labels.of(torch.arange(N))
    assert found.shape == weights.shape == (H, N, num_labels)
    assert found.dtype == torch.int64 and weights.dtype == torch.float32
    for image in range(N):
        if image not in oracle:
            assert not found[:, image].any() and not weights[:, image].any()
            continue
        assert torch.equal(found[:, image], oracle[image][0])
        shares = oracle[image][1]
        expected = shares if num_labels > 1 else torch.ones_like(shares)
        assert torch.equal(weights[:, image], expected)


@pytest.mark.parametrize("num_labels", [1, 4])
def test_before_the_first_assignment_no_image_has_a_label(num_labels):
    labels = PseudoLabels(num_heads=H, num_images=N, num_labels=num_labels)
    assert_holds(labels, {}, num_labels)
    assert (labels.labels == NO_LABEL).all()


@pytest.mark.parametrize("num_labels", [1, 4])
def test_publishing_replaces_all_labels(num_labels):
    labels = PseudoLabels(num_heads=H, num_images=N, num_labels=num_labels)
    for seed, images in enumerate([(0, 5, 28, 7), (1, 5), tuple(range(N))]):
        oracle = draw(num_labels, seed=seed, images=images)
        labels.publish(*told(oracle, list(images)))
        assert_holds(labels, oracle, num_labels)


@pytest.mark.parametrize("num_labels", [1, 4])
def test_every_rank_learns_what_each_has_found(num_labels):
    """Label 0 too, which a sum over ranks could lose; one rank has nothing to tell."""
    oracle = draw(num_labels, images=tuple(range(1, N)))
    oracle[3][0].zero_()
    shards = [torch.randperm(N - 1)[:20] + 1, torch.empty(0, dtype=torch.long)]
    rest = set(range(1, N)) - set(shards[0].tolist())
    shards.append(torch.tensor(sorted(rest)))

    def program(collective):
        labels = PseudoLabels(num_heads=H, num_images=N, num_labels=num_labels)
        images = shards[collective.rank].tolist()
        if images:
            arguments = told(oracle, images)
        else:
            none = torch.empty(H, 0, num_labels)
            weights = none if num_labels > 1 else None
            arguments = (shards[1], none.long(), weights)
        labels.publish(*arguments, collective=collective)
        return labels

    for labels in virtual_ranks.run(program, 3):
        assert_holds(labels, oracle, num_labels)


def test_labels_of_a_batch_come_in_its_order():
    oracle = draw(1)
    labels = PseudoLabels(num_heads=H, num_images=N)
    labels.publish(*told(oracle, list(range(N))))
    images = torch.tensor([4, 28, 4, 0])
    found, weights = labels.of(images)
    for b, image in enumerate(images.tolist()):
        assert torch.equal(found[:, b], oracle[image][0])
    assert weights.shape == (H, 4, 1) and (weights == 1).all()


@pytest.mark.parametrize("num_labels", [1, 4])
def test_state_round_trip(num_labels):
    labels = PseudoLabels(num_heads=H, num_images=N, num_labels=num_labels)
    oracle = draw(num_labels, images=(3, 9, 11))
    labels.publish(*told(oracle, [3, 9, 11]))
    copy = PseudoLabels(num_heads=H, num_images=N, num_labels=num_labels)
    copy.publish(*told(draw(num_labels, seed=5), list(range(N))))
    copy.load_state_dict(labels.state_dict())
    assert_holds(copy, oracle, num_labels)
    assert ("weights" in labels.state_dict()) == (num_labels > 1)


def test_a_state_of_another_data_set_is_an_error():
    labels = PseudoLabels(num_heads=H, num_images=N)
    with pytest.raises(RuntimeError, match="size mismatch for labels"):
        PseudoLabels(num_heads=H, num_images=N + 1).load_state_dict(labels.state_dict())


@pytest.mark.parametrize("wrong", ["num_heads", "num_images", "num_labels"])
def test_errors_of_the_settings(wrong):
    with pytest.raises(ValueError, match="wanted each >= 1"):
        PseudoLabels(**{"num_heads": H, "num_images": N, "num_labels": 1, wrong: 0})
