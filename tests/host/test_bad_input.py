"""Each mistake: one clear message, exit code 2, nothing written."""

import host_runs
import pytest

from vissl_swav import train


@pytest.fixture
def run(compose, images, tmp_path, capsys):
    """`run(*overrides)` -> the message of a start that must be refused."""

    def refused(*overrides, source=images):
        folder = tmp_path / "run"
        before = folder.exists() and {f: f.stat().st_mtime for f in folder.rglob("*")}
        code = train.main(host_runs.overrides(source, folder, *overrides))
        message = capsys.readouterr().err
        assert code == 2, message
        assert "Traceback" not in message
        after = folder.exists() and {f: f.stat().st_mtime for f in folder.rglob("*")}
        assert before == after, "a refused start wrote something"
        return message

    return refused


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["config.OPTIMIZER.num_epoch=3"], ["num_epoch", "OPTIMIZER.num_epochs"]),
        (
            ["+config.OPTIMIZER.num_epoch=3"],
            ["num_epoch", "command line", "num_epochs"],
        ),
        (["config=pretrain/swav/nowhere"], ["nowhere"]),
        (["config.LOSS.swav.temperature"], ["temperature"]),
        (["config.DISTRIBUTED.NUM_PROC_PER_NODE=999"], ["999", "CPU cores"]),
        (["config.MACHINE.DEVICE=gpu"], ["MACHINE.DEVICE=cpu", "0 CUDA devices"]),
        (["config.DISTRIBUTED.BACKEND=nccl"], ["BACKEND=gloo"]),
        (["config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=500"], ["48 images", "at most 48"]),
        (
            [
                "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24,16],"
                "num_crops:[2],crop_scales:[[0.3,1.0]]}]"
            ],
            ["size_crops", "num_crops"],
        ),
        (
            [
                "config.MODEL.HEAD.PARAMS=[[swav_head,{dims:[16,16,8],use_bn:true,"
                "num_clusters:[2000000000]}]]"
            ],
            ["2000000000 prototypes need", "lower num_clusters"],
        ),
        (
            [
                "config.LOSS.name=sela_v2",
                "config.MODEL.HEAD.PARAMS=[[swav_head,{dims:[16,16,8],use_bn:true,"
                "num_clusters:[12,49]}]]",
            ],
            ["49 prototypes", "48 images"],
        ),
        (
            ["config.LOSS.name=deepcluster_v2", "config.LOSS.deepcluster_v2.nearst=x"],
            ["nearst", "did you mean nearest"],
        ),
        (["config.LOSS.deepcluster_v2.epsilon=1"], ["epsilon is no key of vissl_swav"]),
        (["config.LOSS.name=deepclusterv2"], ["'deepclusterv2'", "deepcluster_v2"]),
        (["config.TEST_ONLY=true"], ["to pretrain", "config=benchmark/"]),
        (["config.MODEL.TRUNK.RESNET_SMALL.WIDHT=3"], ["WIDHT", "WIDTH"]),
        (["config.MODEL.TRUNK.RESNET_SMALL.WIDTH=3"], ["starts with 16", "24"]),
        (["config.MODEL.TRUNK.RESNET_SMALL.DEPTH=50"], ["DEPTH 50", "[18, 34]"]),
        (["config.DATA.TRAIN.DATA_PATHS=[]"], ["DATA_PATHS is empty"]),
        (["config.MODEL.WEIGHTS_INIT.PARAMS_FILE=/no/such.torch"], ["/no/such.torch"]),
        (["config.MODEL.AMP_PARAMS.USE_AMP=true"], ["float16 on the CPU", "USE_AMP"]),
        (
            [
                "config.MODEL.AMP_PARAMS.USE_AMP=true",
                "config.MODEL.AMP_PARAMS.AMP_DTYPE=bf16",
            ],
            ["'bf16'", "bfloat16"],
        ),
        (
            [
                "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24],"
                "num_crops:2,crop_scales:[[0.3,1.0]]}]"
            ],
            ["num_crops"],
        ),
        (
            [
                "config.MODEL.HEAD.PARAMS=[[swav_head,{dims:[16,8],use_bn:true,"
                "num_clusters:12}]]"
            ],
            ["num_clusters wants a list"],
        ),
        (
            ["config.MODEL.HEAD.PARAMS=[[swav_head,{use_bn:true,num_clusters:[12]}]]"],
            ["dims wants a list"],
        ),
        (["config.LOSS.swav.crops_for_assign=[a]"], ["crops_for_assign", "whole"]),
        (["config.LOSS.swav.freeze_prototypes_epochs=-3"], ["-3", ">= 0"]),
        (["config.LOSS.swav.queue_start_step=-5"], ["-5", ">= 0"]),
    ],
)
def test_overrides(run, overrides, words):
    message = run(*overrides)
    for word in words:
        assert word in message


def test_no_config(capsys, host):
    assert train.main([]) == 2
    assert "config=pretrain" in capsys.readouterr().err


def test_missing_and_empty_data(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for source in ("images", "disk_folder"):
        chosen = f"config.DATA.TRAIN.DATA_SOURCES=[{source}]"
        assert "there is no" in run(chosen, source=tmp_path / "nowhere")
        assert "empty" in run(chosen, source=tmp_path / "empty")


def test_unreadable_images_are_named(run, tmp_path):
    """One stops VISSL's own source, which would train on grey; all of them ours."""
    folder = host_runs.make_images(tmp_path / "broken")
    files = sorted(folder.rglob("*.png"))
    files[0].write_bytes(b"no image at all")
    hosts = "config.DATA.TRAIN.DATA_SOURCES=[disk_folder]"
    assert "0.png" in run(hosts, source=folder)
    for file in files:
        file.write_bytes(b"no image at all")
    message = run(source=folder)
    assert "none of 16 images tried" in message and ".png" in message


def test_a_folder_of_another_run_is_left_alone(run, images, tmp_path):
    folder = tmp_path / "run"
    host_runs.train(*host_runs.overrides(images, folder, epochs=1))
    message = run("config.OPTIMIZER.name=sgd")
    assert "checkpoints of another run" in message
    assert "'adam' there, 'sgd' here" in message
    more = (
        "config.MODEL.HEAD.PARAMS=[[swav_head,{dims:[16,16,8],use_bn:true,"
        "num_clusters:[13]}]]"
    )
    message = run(more)
    assert "MODEL.HEAD.PARAMS" in message and "OPTIMIZER.name" not in message
    whole = (folder / "model_final_checkpoint_phase0.torch").read_bytes()
    (folder / "model_final_checkpoint_phase0.torch").write_bytes(whole[:9999])
    longer = "config.OPTIMIZER.num_epochs=2"
    assert "none of them can be read" in run(longer)
    (folder / "train_config.yaml").unlink()
    assert "no train_config.yaml" in run()


def test_what_makes_a_run_another_one(compose, images, tmp_path):
    """Other images do where a bank goes by their numbers; the rest is told."""
    from vissl_swav.host.settings.same_run import differences, identity, plain

    other = f"config.DATA.TRAIN.DATA_PATHS=[{tmp_path}]"
    more = "config.OPTIMIZER.num_epochs=7"
    for loss, refused in (
        ("swav", set()),
        ("deepcluster_v2", {"DATA.TRAIN.DATA_PATHS"}),
        ("sela_v2", {"DATA.TRAIN.DATA_PATHS"}),
    ):
        old, new = compose(loss=loss), compose(other, more, loss=loss)
        one, two = identity(old), identity(new)
        assert {key for key in one if one[key] != two[key]} == refused
        told = differences(plain(old), plain(new))
        assert {"DATA.TRAIN.DATA_PATHS", "OPTIMIZER.num_epochs"} <= set(told)
        assert all(key.startswith(("DATA.TRAIN.", "OPTIMIZER.")) for key in told)
        assert told["OPTIMIZER.num_epochs"] == (2, 7)
    deeper = compose("config.MODEL.TRUNK.RESNET_SMALL.DEPTH=34")
    one, two = identity(compose()), identity(deeper)
    changed = [key for key in one if one[key] != two[key]]
    assert changed == ["MODEL.TRUNK.RESNET_SMALL.DEPTH"]


def test_a_finished_run_is_not_touched(images, tmp_path):
    folder = tmp_path / "run"
    settings = host_runs.overrides(images, folder, epochs=1)
    host_runs.train(*settings)
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*")}
    done = host_runs.train(*settings, "config.SEED_VALUE=7")
    assert {f: f.stat().st_mtime_ns for f in folder.rglob("*")} == before
    assert "has finished before: nothing to do" in done.stderr
    # Asked for more epochs it goes on, and the checkpoint of the first end stays.
    host_runs.train(*host_runs.overrides(images, folder, epochs=2))
    assert [line["step"] for line in host_runs.lines(folder)] == [1, 2, 3, 4, 5, 6]
    finals = {path.name for path in folder.glob("model_final*")}
    assert finals == {f"model_final_checkpoint_phase{n}.torch" for n in (0, 1)}


def test_a_resumed_run_keeps_the_earlier_config(images, tmp_path):
    folder = tmp_path / "run"
    more = "config.CHECKPOINT.OVERWRITE_EXISTING=true"
    for epochs in (1, 2, 2):
        host_runs.train(*host_runs.overrides(images, folder, more, epochs=epochs))
    names = sorted(path.name for path in folder.glob("train_config*"))
    assert names == ["train_config.1.yaml", "train_config.yaml"]
    assert "num_epochs: 1\n" in (folder / "train_config.1.yaml").read_text()
    assert "num_epochs: 2\n" in (folder / "train_config.yaml").read_text()


def test_a_job_for_slurm_is_not_measured_by_the_login_node(compose, monkeypatch):
    from vissl_swav.host import preflight
    from vissl_swav.host.errors import StartError

    gpus = ["config.MACHINE.DEVICE=gpu", "config.DISTRIBUTED.NUM_PROC_PER_NODE=8"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(StartError, match="0 CUDA devices"):
        preflight.check(compose(*gpus, "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=2"))
    preflight.check(
        compose(
            *gpus,
            "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=2",
            "config.SLURM.USE_SLURM=true",
        )
    )


def test_memory_counts_all_heads_and_all_processes(compose, monkeypatch):
    from vissl_swav.host import machine_checks, preflight
    from vissl_swav.host.errors import StartError

    heads = (
        "config.MODEL.HEAD.PARAMS=[[swav_head,{dims:[16,16,8],use_bn:true,"
        "num_clusters:[1000,1000]}]]"
    )
    # Two heads: weight, gradient, momentum; two score matrices of 3 crops x 8.
    one = 2 * (3 * 4 * 1000 * 8 + 2 * 4 * 1000 * 3 * 8)
    monkeypatch.setenv(machine_checks.ALLOW_OVERSUBSCRIPTION, "1")
    config = compose(heads, processes=2)
    monkeypatch.setattr(machine_checks, "memory_bytes", lambda device: 2 * one)
    preflight.check(config)
    monkeypatch.setattr(machine_checks, "memory_bytes", lambda device: 2 * one - 1)
    with pytest.raises(StartError, match="2000 prototypes need"):
        preflight.check(config)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("num_epochs: 14", "num_epoch: 14", "OPTIMIZER.num_epochs"),
        ("size_crops:", "size_crop:", "size_crops"),
        ("use_bn:", "use_bnn:", "use_bn"),
        ("    swav:\n", "    sawv:\n", "swav"),
        ("trainable_prototypes:", "trainable_prototype:", "trainable_prototypes"),
    ],
)
def test_a_misspelt_key_in_a_file_names_the_file(
    host, images, tmp_path, capsys, old, new, word
):
    """A config that hydra composes, wrong in one word."""
    from vissl_swav.host import config_keys

    original = config_keys.find_yaml("config/pretrain/swav", "quickstart")
    text = original.read_text()
    assert old in text
    mine = original.with_name("misspelt_in_a_test.yaml")
    mine.write_text(text.replace(old, new))
    try:
        code = train.main(
            [
                "config=pretrain/swav/misspelt_in_a_test",
                f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
                f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
            ]
        )
    finally:
        mine.unlink()
    message = capsys.readouterr().err
    assert code == 2 and "Traceback" not in message
    assert f"did you mean {word}" in message or f"did you mean config.{word}" in message
    assert str(mine) in message
    assert not (tmp_path / "run").exists()


def test_an_override_that_does_not_arrive_stops_the_start(compose):
    from omegaconf import OmegaConf

    from vissl_swav.host import config_keys
    from vissl_swav.host.errors import StartError

    composed = OmegaConf.create({"config": {"SEED_VALUE": 0, "LIST": [1, {"a": 2}]}})
    config_keys.check_overrides_arrived(
        composed, ["config.SEED_VALUE=0", "config.LIST=[1,{a:2}]", "config=any/file"]
    )
    with pytest.raises(StartError, match="SEED_VALUE=7 did not arrive.*holds 0"):
        config_keys.check_overrides_arrived(composed, ["config.SEED_VALUE=7"])


def test_without_vissl_the_install_line_is_printed(tmp_path):
    program = (
        "import sys; sys.modules['vissl'] = None\n"
        "from vissl_swav import train\n"
        "train.have_host = lambda: False\n"
        "sys.exit(train.main(['config=pretrain/swav/quickstart']))"
    )
    done = host_runs.python("-c", program, env={"VISSL_SWAV_AUTO": "0"})
    assert done.returncode == 2
    assert "pip install --no-deps vissl==0.1.6" in done.stderr
