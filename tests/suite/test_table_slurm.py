"""The table through submitit: its local executor runs the jobs as processes."""

import json
import sys

import pytest
import table_fakes

from vissl_swav.host.errors import StartError
from vissl_swav.suite import table_slurm


def test_settings():
    found = table_slurm.parse_settings("partition=gpu, hours=1.5,gpus=8,account=me")
    assert found == {"partition": "gpu", "hours": 1.5, "gpus": 8, "account": "me"}
    told = table_slurm.parameters(found, "slurm")
    assert told["timeout_min"] == 90 and told["gpus_per_node"] == 8
    assert told["slurm_partition"] == "gpu"
    assert told["slurm_additional_parameters"] == {"account": "me"}
    assert "slurm_partition" not in table_slurm.parameters(found, "local")


@pytest.mark.parametrize("text", ["gpu", "hours=long", "gpus=0", "=3", "hours=-1"])
def test_settings_that_are_none(text):
    with pytest.raises(StartError, match="--slurm"):
        table_slurm.parse_settings(text)


def test_nothing_runs_here_unasked(tmp_path, monkeypatch):
    """submitit would take this machine where there is no sbatch."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartError, match="no sbatch on this machine"):
        table_slurm.check("partition=gpu")
    table_slurm.check("cluster=local,hours=1")
    sbatch = tmp_path / "sbatch"
    sbatch.touch(mode=0o755)
    table_slurm.check("partition=gpu")


def test_the_command_of_a_row(tmp_path):
    options = table_fakes.options(
        *("a=x", "y", "--suite", "paper", "--data", "imagenet=/i", "--seed", "3"),
        *("--out", tmp_path / "o", "--columns", "knn", "--slurm", "partition=p"),
    )
    line = table_slurm.command(options, "random trunk")
    assert line[:3] == [sys.executable, "-m", "vissl_swav.cli"]
    assert line[3:6] == ["table", "a=x", "y"] and line[-2:] == ["--row", "random trunk"]
    assert "--slurm" not in line and line[line.index("--seed") + 1] == "3"
    assert line[line.index("--out") + 1] == str(tmp_path / "o")


@pytest.mark.timeout(120)
def test_jobs_run_and_are_waited_for(tmp_path, monkeypatch):
    """Each row's job runs its command; the call returns when all are over."""

    def command(options, row):
        code = f"import pathlib; pathlib.Path({str(tmp_path / row)!r}).write_text('x')"
        return [sys.executable, "-c", code]

    monkeypatch.setattr(table_slurm, "command", command)
    options = table_fakes.options("x", "--out", tmp_path, "--slurm", "cluster=local")
    reports = []
    table_slurm.run(options, ["a", "b"], lambda *report: reports.append(report))
    assert (tmp_path / "a").exists() and (tmp_path / "b").exists()
    assert reports[-1][:2] == (2, 2)


def test_a_job_that_slurm_takes_away_is_queued_again():
    job = table_slurm._RowJob(["a"])
    again = job.checkpoint()
    assert again.function.line == ["a"]


def test_settings_that_submitit_refuses(tmp_path):
    options = table_fakes.options("x", "--out", tmp_path, "--slurm", "cluster=slurmm")
    with pytest.raises(StartError, match="submitit cannot submit"):
        table_slurm.run(options, ["a"], lambda *report: None)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_whole_table(host, tmp_path, capfd):
    """The rows' own processes run the fake checkpoint's benchmarks, which fail."""
    import host_runs

    from vissl_swav.suite import table

    run = table_fakes.checkpoint(tmp_path / "run")
    recipe = tmp_path / "fake.yaml"
    recipe.write_text(table_fakes.RECIPE)
    images = tmp_path / "images"
    host_runs.make_images(images / "train", classes=2, per_class=10)
    host_runs.make_images(images / "test", classes=2, per_class=4)
    line = table_fakes.options(
        *(run, "--suite", recipe, "--data", f"main={images}", "--columns", "linear"),
        *("--only-checkpoints", "--out", tmp_path / "out", "--slurm", "cluster=local"),
    )
    assert table.main(line) == 1
    kept = json.loads((tmp_path / "out" / "table.json").read_text())
    assert kept["rows"]["swav"]["linear"]["state"] == "failed"
    assert list((tmp_path / "out" / "slurm").glob("*_log.out"))
