"""Whole runs of `swav_momentum`: one alone, two ended in mid-epoch, and plain SwAV."""

import json

import host_runs
import pytest
import torch
from same_runs import assert_same_state, final, steps

pytestmark = [pytest.mark.usefixtures("host"), pytest.mark.timeout(600)]

TWO_CROPS = (
    "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24],num_crops:[2],"
    "crop_scales:[[0.3,1.0]],total_num_crops:2}]"
)
# Local crops before and between the global ones.
FOUR_CROPS = (
    "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[16,24],"
    "num_crops:[1,3],crop_scales:[[0.1,0.3],[0.3,1.0]],total_num_crops:4}]"
)
BY_EPOCH = (
    "config.OPTIMIZER.param_schedulers.lr={name:cosine,start_value:0.01,"
    "end_value:0.0,update_interval:epoch}"
)
RARELY = "config.CHECKPOINT.CHECKPOINT_FREQUENCY=100"


def settings(**keys):
    keys = {"temperature": 0.1, **keys}
    return [f"config.LOSS.swav_momentum.{key}={value}" for key, value in keys.items()]


def overrides(images, folder, *extra, **shape):
    """A tiny run of 3 steps an epoch; `swav` keys are left out."""
    given = host_runs.overrides(images, folder, loss="swav_momentum", **shape)
    of_others = ("config.LOSS.swav.", "config.CHECKPOINT.DIR")
    kept = [line for line in given if not line.startswith(of_others)]
    return [*kept, "config.LOSS.swav=null", *extra]


def interrupted(images, runs, *extra, **shape):
    """`runs`: folder -> signals (`tests/interrupted_runs.py`); exit codes of starts."""
    lines = overrides(images, "nowhere", *extra, **shape)
    named = [word for folder, ends in runs.items() for word in (str(folder), ends)]
    done = host_runs.python("tests/interrupted_runs.py", *named, "--", *lines)
    logs = [f.with_name(f.name + ".log").read_text()[-2000:] for f in runs]
    assert done.returncode == 0, done.stderr[-3000:] + "".join(logs)
    return json.loads(done.stdout.splitlines()[-1]), logs


@pytest.fixture(scope="module")
def alone(images, tmp_path_factory):
    """One process: a run as it is, and one that is ended while its queue fills."""
    folder = tmp_path_factory.mktemp("alone")
    runs = {folder / "whole": "", folder / "parts": "TERM:step:4"}
    keys = settings(
        momentum=0.9,
        queue_length=96,
        crops_for_assign="[1,3]",
        freeze_prototypes_epochs=1,
    )
    codes, _ = interrupted(images, runs, FOUR_CROPS, BY_EPOCH, RARELY, *keys, epochs=4)
    assert codes == [[0], [75, 0]]
    return folder


def encoder_of(folder):
    loss = final(folder)["loss"]
    name = "encoder."
    return {k.removeprefix(name): v for k, v in loss.items() if k.startswith(name)}


def test_it_goes_on_as_if_nothing_had_been(alone):
    """Losses before and after the queue comes into use, and all state, bit for bit."""
    whole, parts = (steps(alone / name) for name in ("whole", "parts"))
    assert whole == parts and len(whole) == 12
    assert_same_state(final(alone / "whole"), final(alone / "parts"))


def test_the_checkpoint_holds_the_encoder_and_its_queue(alone):
    state = final(alone / "whole")
    loss, encoder = state["loss"], encoder_of(alone / "whole")
    assert loss["swav.queue.features"].shape == (2, 96, 8)
    assert int(loss["swav.queue.num_filled"]) == 96
    model = state["classy_state_dict"]["base_model"]["model"]
    student = {f"trunk.{key}": value for key, value in model["trunk"].items()}
    student |= {f"heads.{key}": value for key, value in model["heads"].items()}
    assert encoder.keys() == student.keys()
    changed = [key for key in encoder if not torch.equal(encoder[key], student[key])]
    assert len(changed) > len(encoder) / 2, "the encoder follows, it is not the model"
    (weight,) = [v for k, v in encoder.items() if k.endswith("prototypes0.weight")]
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(12))


def test_the_encoder_goes_out_as_weights(alone, tmp_path, capsys):
    """`vissl-swav export --momentum`: trunk, head and prototypes, each its own."""
    from vissl_swav.cli import main
    from vissl_swav.weights.errors import WeightsError
    from vissl_swav.weights.loading import load_weights

    source, encoder = alone / "whole" / "checkpoint.torch", encoder_of(alone / "whole")
    found, model = load_weights(source, momentum=True), load_weights(source)
    assert found.counts == model.counts and found.layout == "VISSL"
    named = {k: v for k, v in encoder.items() if k.endswith("conv1.weight")}
    assert torch.equal(found.trunk["conv1.weight"], next(iter(named.values())))
    assert not torch.equal(found.trunk["conv1.weight"], model.trunk["conv1.weight"])
    out = tmp_path / "encoder.torch"
    to = ["export", str(source), "--momentum", "--part", "all", "-o", str(out), "--to"]
    assert main([*to, "vissl"]) == 0
    again = load_weights(out)
    assert all(torch.equal(again.tensors[k], v) for k, v in found.tensors.items())
    assert main([*to, "onnx", "--force"]) == 2
    assert "do not go together" in capsys.readouterr().err
    with pytest.raises(WeightsError, match="holds no momentum encoder"):
        load_weights(out, momentum=True)


def test_health_and_losses_of_a_run(alone):
    lines = host_runs.lines(alone / "whole")
    losses = torch.tensor([line["loss"] for line in lines])
    assert torch.isfinite(losses).all() and losses.std() > 1e-3
    assert not list((alone / "whole").glob("nonfinite*"))


@pytest.fixture(scope="module")
def on_two(images, tmp_path_factory):
    """Two processes, their BatchNorm layers apart: a whole run and one ended."""
    folder = tmp_path_factory.mktemp("two")
    runs = {folder / "whole": "", folder / "parts": "TERM:step:4"}
    keys = settings(queue_length=32, queue_dtype="float16", momentum_prototypes="false")
    codes, _ = interrupted(images, runs, BY_EPOCH, RARELY, *keys, epochs=3, processes=2)
    assert codes == [[0], [75, 0]]
    return folder


@pytest.mark.slow
def test_two_processes_go_on_as_if_nothing_had_been(on_two):
    whole, parts = (steps(on_two / name) for name in ("whole", "parts"))
    assert whole == parts and len(whole) == 9
    assert_same_state(final(on_two / "whole"), final(on_two / "parts"))


@pytest.mark.slow
def test_every_process_has_its_own_rows_in_half_precision(on_two):
    loss = final(on_two / "whole")["loss"]
    second = loss["_extra_state"]["other_ranks"][0]["features"]
    queues = torch.stack([loss["swav.queue.features"], second])
    assert queues.shape == (2, 2, 16, 8) and queues.dtype == torch.float16
    assert not torch.equal(queues[0], queues[1])
    lengths = queues.float().norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones(2, 2, 16), atol=2e-3, rtol=0)


@pytest.mark.slow
def test_momentum_0_is_swav_bit_for_bit(images, tmp_path):
    """The encoder is then the model before the step; two crops, as batch norm sees."""
    keys = ["config.LOSS.{}.temperature=0.1", "config.LOSS.{}.queue_length=32"]
    for loss in ("swav", "swav_momentum"):
        zero = settings(momentum=0.0, momentum_end=0.0)
        host_runs.train(
            *overrides(images, tmp_path / loss, TWO_CROPS, epochs=3),
            f"config.LOSS.name={loss}",
            *([] if loss == "swav" else zero),
            "config.LOSS.swav={temperature:0.1,queue_length:32}",
            *(key.format("swav_momentum") for key in keys),
            f"config.CHECKPOINT.DIR={tmp_path / loss}",
        )
    plain, momentum = (
        host_runs.losses(tmp_path / n) for n in ("swav", "swav_momentum")
    )
    assert plain == momentum and len(plain) == 9
