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
    """Same weights, data and draws; fp32, queue off, nothing frozen."""
    common = [f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={start_weights}"]
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
    queues = state["_extra_state"]["features"]
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


def test_resume_continues_and_keeps_the_queue(images, tmp_path):
    """Stopped after 2 of 4 epochs; the resumed run sees the queue it left."""
    extra = [
        "config.LOSS.swav.queue_length=32",
        "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1",
    ]
    for epochs in (2, 4):
        host_runs.train(
            *host_runs.overrides(images, tmp_path, *extra, epochs=epochs),
            "config.CHECKPOINT.OVERWRITE_EXISTING=true",
        )
    steps = [line["step"] for line in host_runs.lines(tmp_path)]
    assert sorted(set(steps)) == list(range(1, 13))
    state = torch.load(
        tmp_path / "checkpoint.torch", weights_only=False, map_location="cpu"
    )["loss"]
    assert int(state["swav.num_steps"]) == 12
    assert int(state["swav.queue.num_filled"]) == 32


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
