"""`vissl-swav plan`: tables, verdicts, exit codes; nothing written."""

import host_runs
import pytest
from shard_files import write_shards

from vissl_swav import cli


@pytest.fixture
def images(tmp_path):
    return host_runs.make_images(tmp_path / "images")


@pytest.fixture
def plan(host, images, tmp_path, capsys):
    """`plan(*overrides)` -> (exit code, stdout, stderr) for the tiny run."""

    def run(*overrides, **settings):
        folder = tmp_path / "run"
        given = host_runs.overrides(images, folder, *overrides, **settings)
        code = cli.main(["plan", *given])
        assert not folder.exists(), "a plan wrote something"
        return code, *capsys.readouterr()

    return run


def rows_of(text):
    pairs = (line.strip().split("  ", 1) for line in text.splitlines())
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def test_a_plan_without_fault(plan):
    code, out, _ = plan(epochs=5)
    rows = rows_of(out)
    assert code == 0 and "nothing to object" in out
    assert rows["batch"] == "16 images x 1 process = 16"
    assert rows["images"] == "48" and rows["steps"] == "3 an epoch, 15 in all"
    assert rows["prototypes K"] == "12 of dimension 8"
    assert rows["ceiling of the loss"] == "ln K = 2.4849"
    assert rows["floor of the loss"] == "0"
    assert rows["prototypes frozen"].startswith("until epoch 1 (step 3), 20.0% of")
    assert rows["learning rate by the rule"].startswith("none: 0.6 at 256")
    assert int(rows["parameters"].replace(",", "")) > 1000


def test_an_error_has_exit_code_1_and_warnings_have_0(plan):
    code, out, _ = plan("config.LOSS.swav.freeze_prototypes_epochs=2")
    assert code == 1 and "error: PROTOTYPES NEVER THAW: " in out
    assert "(config.LOSS.swav.freeze_prototypes_epochs)\n" in out
    code, out, _ = plan(epochs=4)
    assert code == 0 and "warning: LONG FREEZE: " in out


def test_the_rows_of_a_queue_and_of_a_bank(plan):
    _, out, _ = plan(
        "config.LOSS.swav.queue_length=32",
        "config.LOSS.swav.queue_start_epoch=2",
        epochs=9,
    )
    rows = rows_of(out)
    assert rows["samples of the Sinkhorn problem N"] == "16; with the queue 48"
    assert rows["queue starts to fill"] == "epoch 2 (step 6)"
    assert rows["queue in use from"] == "epoch 2.667 (step 8)"
    assert rows["queue + batch"] == "100.0% of the images"
    assert rows["memory of the queue"] == "2.0 KiB"
    _, out, _ = plan(loss="deepcluster_v2")
    rows = rows_of(out)
    assert rows["samples labelled at once N"] == "48 (all images)"
    assert {"memory of the bank", "memory of k-means"} <= set(rows)


def test_the_rows_of_a_stream(plan, tmp_path):
    """98 images in two tar files of 51 200 bytes, of which 160 are wanted."""
    write_shards(tmp_path / "shards", [49, 49])
    code, out, _ = plan(
        "config.DATA.TRAIN.DATA_SOURCES=[image_stream]",
        f"config.DATA.TRAIN.DATA_PATHS=[{tmp_path / 'shards'}]",
        "config.DATA.TRAIN.STREAM.NUM_IMAGES=160",
        epochs=1,
    )
    rows = rows_of(out)
    assert code == 0 and rows["steps"] == "10 an epoch, 10 in all"
    assert rows["shards"] == "2, 100.0 KiB in all"
    assert rows["images in the shards"] == "about 100 (2 seen)"
    assert rows["passes"].startswith("about 1.60: 160.0 KiB to read")
    assert rows["shuffle buffer"].startswith("1000 images a rank")
    assert rows["time"].startswith("0.0 h at 1 s a step")


def test_images_that_are_not_there(plan, tmp_path):
    gone = f"config.DATA.TRAIN.DATA_PATHS=[{tmp_path / 'gone'}]"
    code, out, _ = plan(gone, epochs=9)
    assert code == 1 and "error: config.DATA.TRAIN.DATA_PATHS: there is no" in out
    assert rows_of(out)["images"] == "not known"
    code, out, _ = plan(gone, "images=5000", epochs=9)
    assert code == 0 and rows_of(out)["steps"] == "312 an epoch, 2808 in all"


def test_too_few_images_are_said_once(plan):
    large = "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=64"
    code, out, _ = plan(large)
    assert code == 1 and out.count("fewer than one global batch") == 1
    code, out, _ = plan(large, "images=63")
    assert code == 1 and out.count("FEWER IMAGES THAN A BATCH") == 1


def test_a_plan_for_other_machines_needs_none_of_their_devices(plan):
    code, out, _ = plan(
        "config.MACHINE.DEVICE=gpu",
        "config.DISTRIBUTED.NUM_PROC_PER_NODE=8",
        "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=2",
        loss="deepcluster_v2",
        epochs=9,
    )
    assert code == 0 and rows_of(out)["batch"] == "2 images x 8 processes = 16"


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["images=many"], "wanted a number of images"),
        (["images=0"], "wanted a number of images"),
        (["config.LOSS.swav.temprature=1"], "did you mean temperature"),
    ],
)
def test_bad_input_has_exit_code_2(plan, overrides, word):
    code, out, err = plan(*overrides)
    assert code == 2 and out == ""
    assert "vissl-swav plan: " in err and word in err


def test_data_and_losses_of_the_host(host, images, capsys):
    quick = "config=pretrain/swav/quickstart"
    batch = "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=8"
    assert cli.main(["plan", quick, batch, f"data={images}"]) == 0
    assert rows_of(capsys.readouterr().out)["images"] == "48"
    assert cli.main(["plan", "config=pretrain/simclr/simclr_8node_resnet"]) == 2
    assert (
        "loss of this config is simclr_info_nce_loss; a plan is for"
        in capsys.readouterr().err
    )


# The commands of the threads, as far as these tell them, in keys of ours.
AS_CONFIGS = {
    51: (
        [
            "config=pretrain/swav/resnet50_200ep_batch256",
            "config.DISTRIBUTED.NUM_PROC_PER_NODE=8",
            "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=32",
            "config.LOSS.swav.freeze_prototypes_epochs=null",
            "config.LOSS.swav.freeze_prototypes_steps=5005",
            "config.OPTIMIZER.num_epochs=5",
            "images=100000",
        ],
        1,
        ["error: PROTOTYPES NEVER THAW", "error: QUEUE NEVER STARTS"],
    ),
    78: (
        [
            "config=pretrain/swav/resnet50_200ep_batch256",
            "config.DISTRIBUTED.NUM_PROC_PER_NODE=1",
            "config.LOSS.swav.freeze_prototypes_epochs=null",
            "config.LOSS.swav.freeze_prototypes_steps=5005",
            "config.OPTIMIZER.num_epochs=400",
            "images=1300",
        ],
        0,
        [
            "250 epochs (5005 steps), 63% of the run",
            "4.0 times above the 0.15",
            "3.0 of each",
        ],
    ),
    118: (
        [
            "config=pretrain/swav/one_gpu_batch64",
            "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=16",
            "config.MODEL.HEAD.PARAMS=[[swav_head,{dims:[2048,2048,128],use_bn:true,"
            "num_clusters:[1500]}]]",
            "config.LOSS.swav.queue_length=0",
            "config.AUTO_SCALE=true",
            "images=15000",
        ],
        0,
        ["TOO MANY PROTOTYPES", "1500 prototypes share 16 samples"],
    ),
    120: (
        [
            "config=pretrain/swav/one_gpu_batch64",
            "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=4",
            "config.MODEL.HEAD.PARAMS=[[swav_head,{dims:[2048,2048,128],use_bn:true,"
            "num_clusters:[21]}]]",
            "config.LOSS.swav.queue_length=0",
            "config.AUTO_SCALE=true",
            "images=1000",
        ],
        0,
        ["FEWER SAMPLES THAN PROTOTYPES", "ln(21 / 4) = 1.66"],
    ),
}


@pytest.mark.parametrize("thread", AS_CONFIGS, ids=lambda number: f"swav#{number}")
def test_four_commands_of_users(thread, host, capsys):
    overrides, code, words = AS_CONFIGS[thread]
    assert cli.main(["plan", *overrides]) == code
    out = capsys.readouterr().out
    for word in words:
        assert word in out
