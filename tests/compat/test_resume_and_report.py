import pytest

from vissl_swav import compat
from vissl_swav.compat.resume import unfinished_final_checkpoint

FINAL = "model_final_checkpoint_phase1.torch"


@pytest.mark.parametrize(
    ("files", "num_phases", "wanted"),
    [
        ([FINAL, "checkpoint.torch"], 3, FINAL),
        ([FINAL], 2, None),
        ([], 2, None),
        (
            [FINAL, "model_final_checkpoint_phase9.torch"],
            11,
            "model_final_checkpoint_phase9.torch",
        ),
        ([FINAL, "model_final_checkpoint_phase9.torch"], 5, None),
    ],
)
def test_the_final_checkpoint_counts_while_epochs_are_missing(
    files, num_phases, wanted
):
    assert unfinished_final_checkpoint(files, num_phases) == wanted


@pytest.mark.parametrize(
    ("more", "num_epochs", "wanted"),
    [
        ([], 3, FINAL),
        ([], 2, None),
        (["model_phase0.torch"], 3, "model_phase0.torch"),
    ],
)
def test_the_host_resumes_from_a_file_that_is_there(
    host, tmp_path, more, num_epochs, wanted
):
    from vissl.config import AttrDict
    from vissl.utils.checkpoint import get_resume_checkpoint

    for name in ["checkpoint.torch", FINAL, *more]:
        (tmp_path / name).touch()
    section = {
        "OVERWRITE_EXISTING": True,
        "AUTO_RESUME": True,
        "LATEST_CHECKPOINT_RESUME_FILE_NUM": 1,
        "CHECKPOINT_ITER_FREQUENCY": -1,
    }
    cfg = AttrDict(
        {
            "CHECKPOINT": section,
            "OPTIMIZER": {"num_epochs": num_epochs},
            "DATA": {"TRAIN": {}},
        }
    )
    path = get_resume_checkpoint(cfg, str(tmp_path))
    assert path == (wanted and f"{tmp_path}/{wanted}")


def test_apply_is_idempotent_and_its_line_names_the_shims(host):
    names = compat.apply()
    assert names == compat.apply()
    assert {"checkpoint_loading", "amp", "cpu_extraction"} <= set(names)
    assert all(name in compat.summary() for name in names)


def test_the_hosts_report_names_us(host):
    from vissl.utils.collect_env import collect_dep_env

    report = dict(collect_dep_env([]))
    assert report["vissl_swav.compat"] == compat.summary()
    assert "apex" in report["vissl_swav"]
    assert "torchvision" in report
