"""Whole runs through the host's trainer, each in a process of its own."""

import host_runs
import pytest
import torch


@pytest.fixture(scope="module")
def start_weights(compose, tmp_path_factory):
    """A VISSL checkpoint with unit prototypes, for runs that must start alike."""
    from vissl.models import build_model

    from vissl_swav.core.prototypes import normalize_rows_

    config = compose()
    torch.manual_seed(0)
    model = build_model(config.MODEL, config.OPTIMIZER)
    normalize_rows_(model.heads[0].prototypes0.weight)
    path = tmp_path_factory.mktemp("weights") / "start.torch"
    state = {"base_model": model.get_classy_state()}
    torch.save({"classy_state_dict": state, "type": "consolidated"}, path)
    return path


def test_losses_equal_the_hosts_own(images, start_weights, tmp_path):
    """Same weights, data and draws; fp32, queue off, nothing frozen.

    Small steps: with batch normalisation over 16 images and codes at epsilon 0.05 every
    step multiplies differences of rounding by about ten.
    """
    common = [
        f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={start_weights}",
        "config.OPTIMIZER.param_schedulers.lr.start_value=0.0003",
    ]
    ours = [*common, "config.LOSS.swav.freeze_prototypes_epochs=0"]
    host_runs.train(*host_runs.overrides(images, tmp_path / "ours", *ours))
    host_runs.train(
        *host_runs.overrides(
            images,
            tmp_path / "theirs",
            *common,
            "config.DATA.TRAIN.COLLATE_FUNCTION=multicrop_collator",
            loss="swav_loss",
        )
    )
    a, b = (host_runs.losses(tmp_path / name) for name in ("ours", "theirs"))
    assert len(a) == 6
    torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=1e-5, atol=0)
    assert max(a) - min(a) > 1e-3, "a constant loss would prove nothing"
    first, *ends = map(
        head_weights,
        (
            start_weights,
            tmp_path / "ours" / "checkpoint.torch",
            tmp_path / "theirs" / "checkpoint.torch",
        ),
    )
    torch.testing.assert_close(*ends, rtol=0, atol=1e-5)
    assert (ends[0] - first).abs().max() > 3e-4, "nothing was trained"


def head_weights(path):
    """The projection head's first layer in a checkpoint of the host's."""
    state = torch.load(path, weights_only=False)["classy_state_dict"]
    heads = state["base_model"]["model"]["heads"]
    return next(value for name, value in heads.items() if name.endswith("weight"))


def test_several_prototype_heads(images, tmp_path):
    host_runs.train(
        *host_runs.overrides(
            images,
            tmp_path,
            "config.MODEL.HEAD.PARAMS=[[swav_head,{dims:[16,16,8],use_bn:true,"
            "num_clusters:[12,5]}]]",
            "config.LOSS.swav.queue_length=32",
        )
    )
    values = torch.tensor(host_runs.losses(tmp_path))
    assert torch.isfinite(values).all() and len(values) == 6
    state = torch.load(tmp_path / "checkpoint.torch", weights_only=False)
    heads = state["classy_state_dict"]["base_model"]["model"]["heads"]
    for name, count in (("prototypes0", 12), ("prototypes1", 5)):
        (weight,) = [v for k, v in heads.items() if k.endswith(f"{name}.weight")]
        assert weight.shape == (count, 8)
        torch.testing.assert_close(
            weight.norm(dim=1), torch.ones(count), atol=0.02, rtol=0
        )


def test_the_hosts_command_line_trains_our_loss_on_two_processes(images, tmp_path):
    """`python -m tools.run_distributed_engines`, unchanged; queue, resume, state."""
    extra = [
        "config.LOSS.swav.queue_length=32",
        "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1",
    ]
    settings = host_runs.overrides(images, tmp_path, *extra, processes=2, epochs=3)
    done = host_runs.python("-m", "tools.run_distributed_engines", *settings, cwd="/")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(host_runs.losses(tmp_path)) == 9
    state = torch.load(
        tmp_path / "checkpoint.torch", weights_only=False, map_location="cpu"
    )["loss"]
    second = state["_extra_state"]["other_ranks"][0]["features"]
    queues = torch.stack([state["swav.queue.features"], second])
    assert queues.shape == (2, 2, 16, 8)
    assert not torch.equal(queues[0], queues[1])
    torch.testing.assert_close(queues.norm(dim=-1), torch.ones(2, 2, 16))
    assert int(state["swav.num_steps"]) == 9


def test_under_torchrun(images, tmp_path):
    done = host_runs.python(
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
        "-m",
        "vissl_swav.train",
        *host_runs.overrides(images, tmp_path, processes=2, epochs=1),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(host_runs.losses(tmp_path)) == 3


@pytest.mark.parametrize("processes", [1, 2])
def test_resume_equals_no_interruption(images, tmp_path, processes):
    """Stopped in the middle of filling the queue; losses and queues bit for bit.

    The rows are the images of 4 epochs; the learning rate is constant. The order of the
    images and every crop follow from the seed, the epoch and the image.
    """
    extra = [
        "config.LOSS.swav.queue_length=192",
        "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1",
        "config.CHECKPOINT.OVERWRITE_EXISTING=true",
        "config.OPTIMIZER.param_schedulers.lr={name:constant,update_interval:epoch,"
        "value:0.001}",
        "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24],num_crops:[2],"
        "crop_scales:[[0.3,1.0]]}]",
    ]

    def run(name, epochs):
        host_runs.train(
            *host_runs.overrides(
                images, tmp_path / name, *extra, epochs=epochs, processes=processes
            )
        )

    run("whole", 5)
    run("parts", 2)
    run("parts", 5)
    whole, parts = (
        [(line["step"], line["loss"]) for line in host_runs.lines(tmp_path / name)]
        for name in ("whole", "parts")
    )
    # The final checkpoint of the shorter run is gone on from: no epoch runs again.
    assert parts == whole
    states = [
        torch.load(tmp_path / name / "checkpoint.torch", weights_only=False)["loss"]
        for name in ("whole", "parts")
    ]
    assert int(states[0]["swav.num_steps"]) == 15
    assert int(states[0]["swav.queue.num_filled"]) == 192 // processes
    for name, value in states[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, states[1][name]), name


def test_bf16_autocast_trains_on_the_cpu(images, tmp_path):
    host_runs.train(
        *host_runs.overrides(
            images,
            tmp_path,
            "config.MODEL.AMP_PARAMS.USE_AMP=true",
            "config.MODEL.AMP_PARAMS.AMP_TYPE=pytorch",
            "++config.MODEL.AMP_PARAMS.AMP_DTYPE=bfloat16",
            epochs=1,
        )
    )
    values = torch.tensor(host_runs.losses(tmp_path))
    assert torch.isfinite(values).all() and len(values) == 3


def test_larc_trains_without_apex(images, tmp_path):
    host_runs.train(
        *host_runs.overrides(
            images,
            tmp_path,
            "config.OPTIMIZER.name=sgd",
            "config.OPTIMIZER.use_larc=true",
            epochs=1,
        )
    )
    assert len(host_runs.losses(tmp_path)) == 3
