"""Our loader inside the host: what a batch holds, for any workers and ranks."""

import pytest
import torch

STEPS = 3
BATCH = 16


@pytest.fixture
def loader_of(compose, monkeypatch, tmp_path):
    """`loader_of(workers=, rank=, ranks=, extra=)`: the loader of a rank."""
    from vissl_swav.host import loader as module

    def make(*, workers=0, rank=0, ranks=1, extra=()):
        from vissl.data import build_dataloader, build_dataset

        monkeypatch.setattr(module, "get_rank", lambda: rank)
        monkeypatch.setattr(module, "get_world_size", lambda: ranks)
        config = compose(f"config.CHECKPOINT.DIR={tmp_path}", *extra, processes=ranks)
        return build_dataloader(
            build_dataset(config, "TRAIN"),
            config.DATA.TRAIN,
            workers,
            pin_memory=True,
            multi_processing_method="forkserver",
            device=torch.device("cpu"),
            sampler_seed=config.SEED_VALUE,
            split="train",
        )

    return make


@pytest.fixture
def batches(loader_of):
    """`batches(epoch, ...)`: an epoch of a rank."""

    def make(epoch=0, **settings):
        loader = loader_of(**settings)
        loader.sampler.set_epoch(epoch)
        return list(loader)

    return make


def crops_by_image(epochs_batches):
    """Image number to its crops."""
    found = {}
    for batch in epochs_batches:
        crops = batch["data"][0]
        numbers = batch["data_idx"][0][: len(crops[0])].tolist()
        for row, number in enumerate(numbers):
            assert number not in found, "an image twice"
            found[number] = [crop[row] for crop in crops]
    return found


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(x, y)
        for number in a
        for x, y in zip(a[number], b[number], strict=True)
    )


def test_a_batch_is_normalised_and_crop_major(batches):
    first = batches()[0]
    large, other, small = first["data"][0]
    assert large.shape == other.shape == (BATCH, 3, 24, 24)
    assert small.shape == (BATCH, 3, 16, 16)
    assert all(crop.dtype == torch.float32 for crop in (large, other, small))
    assert -2.2 < large.min() < large.max() < 2.7 and large.std() > 0.1
    (label,), (index,), (valid,) = (
        first[key] for key in ("label", "data_idx", "data_valid")
    )
    assert torch.equal(label, index) and label.shape == (3 * BATCH,)
    assert torch.equal(index[:BATCH], index[BATCH : 2 * BATCH])
    assert bool((valid == 1).all())


def test_any_number_of_workers_gives_the_same_batches(batches):
    """0, 1 and 2, in the same order; two epochs of one set of workers differ."""
    alone = batches(1)
    assert len(alone) == STEPS
    for workers in (1, 2):
        for a, b in zip(alone, batches(1, workers=workers), strict=True):
            assert torch.equal(a["data_idx"][0], b["data_idx"][0])
            assert all(map(torch.equal, a["data"][0], b["data"][0]))


def test_any_number_of_ranks_gives_an_image_the_same_crops(batches):
    alone = batches()
    ranks = [batches(rank=rank, ranks=2) for rank in range(2)]
    for step in range(STEPS):
        together = crops_by_image([rank[step] for rank in ranks])
        assert same(together, crops_by_image([alone[step]]))


def test_every_epoch_and_seed_gives_other_crops(batches):
    first = crops_by_image(batches())
    assert len(first) == STEPS * BATCH
    others = [batches(1), batches(extra=["config.SEED_VALUE=9"])]
    for other in map(crops_by_image, others):
        assert other.keys() == first.keys()
        for number, crops in first.items():
            assert not torch.equal(crops[0], other[number][0])
    assert same(first, crops_by_image(batches()))


def test_persistent_workers_know_the_epoch(loader_of):
    """The workers of epoch 0 make the crops of epoch 1 that new ones would make."""
    with_workers, alone = loader_of(workers=1), loader_of()
    epochs = []
    for epoch in (0, 1):
        with_workers.sampler.set_epoch(epoch)
        epochs.append(crops_by_image(with_workers))
    alone.sampler.set_epoch(1)
    assert same(epochs[1], crops_by_image(alone))
    assert not same(epochs[0], epochs[1])


ON_DEVICE = "config.TRAINER.TRAIN_STEP_NAME=multi_crop_train_step"


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_crops_of_the_train_step_are_those_of_the_workers(loader_of, workers, resident):
    """Same images in the same order, same draws, pixels within a few levels."""
    extra = [ON_DEVICE, f"config.DATA.TRAIN.IMAGES_ON_DEVICE={resident}"]
    whole, expected = loader_of(workers=workers, extra=extra), loader_of()
    for loader in (whole, expected):
        loader.sampler.set_epoch(1)
    differences = []
    for ours, theirs in zip(whole, expected, strict=True):
        images = ours["data"][0][0]
        assert images.dtype == torch.uint8 and images.shape == (BATCH, 3, 32, 32)
        made = whole.make_crops(ours)
        assert made.keys() == theirs.keys()
        for key in ("label", "data_idx", "data_valid"):
            assert torch.equal(made[key][0], theirs[key][0])
        for a, b in zip(made["data"][0], theirs["data"][0], strict=True):
            assert a.shape == b.shape and a.dtype == torch.float32
            differences.append((a - b).abs().mean() * 0.225 * 255)
    assert torch.stack(differences).mean() < 2


def test_larger_images_are_bounded(loader_of):
    transforms = (
        "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[16],num_crops:[2],"
        "crop_scales:[[0.3,1.0]],max_side:20}]"
    )
    loader = loader_of(extra=[ON_DEVICE, transforms])
    batch = next(iter(loader))
    assert batch["data"][0][0].shape == (BATCH, 3, 20, 20)
    assert loader.make_crops(batch)["data"][0][1].shape == (BATCH, 3, 16, 16)


@pytest.mark.parametrize("source", ["images", "disk_folder"])
@pytest.mark.parametrize("backend", ["opencv", "pillow"])
def test_sources_and_backends_draw_alike(batches, source, backend):
    """PNGs decode alike, and the steps of both paths are within a few levels."""
    reference = crops_by_image(batches())
    transforms = (
        "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24,16],"
        "num_crops:[2,1],crop_scales:[[0.3,1.0],[0.1,0.3]],backend:" + backend + "}]"
    )
    chosen = f"config.DATA.TRAIN.DATA_SOURCES=[{source}]"
    other = crops_by_image(batches(extra=[transforms, chosen]))
    assert same(reference, other) == (backend == "opencv")
    levels = [
        (a - b).abs().mean() * 0.225 * 255
        for number in reference
        for a, b in zip(reference[number], other[number], strict=True)
    ]
    assert torch.stack(levels).mean() < 1.0


def test_floats_where_another_transform_follows(batches):
    """The host's own transforms work on them, and draw from the image's key."""
    extra = [
        "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24,16],"
        "num_crops:[2,1],crop_scales:[[0.3,1.0],[0.1,0.3]]},"
        "{name:RandomErasing,p:1.0,value:7.0}]"
    ]
    first, again = batches(extra=extra), batches(extra=extra)
    assert bool((first[0]["data"][0][0] == 7).flatten(1).any(dim=1).all())
    assert same(crops_by_image(first), crops_by_image(again))


@pytest.mark.parametrize("sampler", ["USE_STATEFUL_DISTRIBUTED_SAMPLER"])
def test_the_hosts_samplers_are_honoured(batches, sampler, monkeypatch):
    from vissl import data

    asked = []

    class Sampler(torch.utils.data.SequentialSampler):
        set_epoch = set_start_iter = lambda self, value: None

    monkeypatch.setattr(
        data,
        "get_sampler",
        lambda dataset, settings, seed: asked.append(seed) or Sampler(dataset),
    )
    found = batches(extra=[f"config.DATA.TRAIN.{sampler}=true"])
    assert asked == [0]
    numbers = torch.cat([batch["data_idx"][0][:BATCH] for batch in found])
    assert torch.equal(numbers, torch.arange(48))


def test_the_hosts_own_data_keeps_the_hosts_loader(compose, tmp_path):
    from torch.utils.data import DataLoader
    from vissl.data import build_dataloader, build_dataset

    config = compose(f"config.CHECKPOINT.DIR={tmp_path}")
    config.DATA.TRAIN.DATA_SOURCES = ["disk_folder"]
    config.DATA.TRAIN.TRANSFORMS = []
    loader = build_dataloader(
        build_dataset(config, "TRAIN"),
        config.DATA.TRAIN,
        0,
        pin_memory=False,
        multi_processing_method="forkserver",
        device=torch.device("cpu"),
    )
    assert type(loader) is DataLoader


def test_channels_of_grey_images(batches):
    found = batches(extra=["config.MODEL.INPUT_TYPE=grey"])
    assert [crop.shape[1] for crop in found[0]["data"][0]] == [1, 1, 1]


STEP = "config.TRAINER.TRAIN_STEP_NAME=multi_crop_train_step"
RGB = "config.MODEL.INPUT_TYPE=rgb"
RESIDENT = "config.DATA.TRAIN.IMAGES_ON_DEVICE"


@pytest.mark.parametrize(
    ("override", "key", "said"),
    [
        (RGB, "channels:1", "INPUT_TYPE=grey"),
        (RGB, "on_device:true", "multi_crop_train_step"),
        (RGB, "max_side:100", "max_side: 100, which nothing reads"),
        (RGB, "size_crop:[3]", "did you mean size_crops"),
        (RGB, "backend:opencw", "wanted 'opencv' or 'pillow'"),
        (STEP, "max_side:abc", "max_side 'abc'; wanted pixels"),
        (STEP, "max_side:true", "max_side True; wanted pixels"),
        (STEP, "backend:pillow", "backend: pillow, which nothing reads"),
        (STEP, "output:float", "output: float, which nothing reads"),
        (f"{RESIDENT}=true", "", "multi_crop_train_step"),
        (f"{RESIDENT}=maybe", "", "'maybe'; wanted true or false"),
        ("config.DATA.TRAIN.MAX_UNREADABLE_SHARE=2", "", r"share in \[0, 1\]"),
    ],
)
def test_contradictions_stop_the_start(compose, override, key, said):
    from vissl_swav.host.errors import StartError

    more = f",{key}" if key else ""
    transforms = (
        "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24],num_crops:[2],"
        "crop_scales:[[0.3,1.0]]" + more + "}]"
    )
    with pytest.raises(StartError, match=said):
        compose(override, transforms)


def test_multi_crop_twice_is_refused(compose):
    from vissl_swav.host.errors import StartError

    entry = "{name:MultiCrop,size_crops:[24],num_crops:[2],crop_scales:[[0.3,1.0]]}"
    with pytest.raises(StartError, match="MultiCrop 2 times; wanted one"):
        compose(f"config.DATA.TRAIN.TRANSFORMS=[{entry},{entry}]")
