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
        (["config.MODEL.TRUNK.RESNET_SMALL.WIDHT=3"], ["WIDHT", "WIDTH"]),
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
    assert "there is no folder" in run(source=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "class" in run(source=tmp_path / "empty")


def test_unreadable_images_are_named(run, tmp_path):
    folder = host_runs.make_images(tmp_path / "broken")
    (folder / "class0" / "0.png").write_bytes(b"no image at all")
    assert "0.png" in run(source=folder)


def test_a_folder_of_another_run_is_left_alone(run, images, tmp_path):
    folder = tmp_path / "run"
    host_runs.train(*host_runs.overrides(images, folder, epochs=1))
    message = run("config.MODEL.TRUNK.RESNET_SMALL.WIDTH=3")
    assert "checkpoints of another run" in message
    assert "'WIDTH': 2" in message and "'WIDTH': 3" in message


def test_a_misspelt_key_in_a_file_names_the_file(compose, tmp_path):
    import yaml

    from vissl_swav.host import config_keys
    from vissl_swav.host.errors import StartError

    path = config_keys.find_yaml("config/pretrain/swav", "quickstart")
    assert path is not None and path.is_file()
    tree = yaml.safe_load(path.read_text())
    tree["config"]["OPTIMIZER"]["num_epoch"] = 3
    with pytest.raises(StartError, match="did you mean config.OPTIMIZER.num_epochs"):
        config_keys.check_keys(tree, [])
    place = config_keys.place_of(
        "config.OPTIMIZER.num_epochs", ["config=pretrain/swav/quickstart"]
    )
    assert place == str(path)


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
