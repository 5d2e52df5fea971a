"""The benchmark scripts run; what they measure is no test's business."""

import host_runs
import pytest


@pytest.mark.timeout(400)
def test_every_benchmark_runs_at_toy_size(host, tmp_path):
    done = host_runs.python(
        *("benchmarks/run_all.py", "--device=cpu", "--quick", f"--out={tmp_path}"),
        timeout=380,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = (tmp_path / "report.md").read_text()
    assert "0 steps failed" in done.stdout
    for word in (
        *("vissl_swav", "SwAVCriterion", "score matrices", "k-NN (k=20)"),
        *("cluster_memory", "Its update step alone", "GB above the bank"),
        "first image after",
        *("VISSL 0.1.6 transform list", "crops: resident", "spent waiting for data"),
    ):
        assert word in report


def test_no_gpu_is_said(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    done = host_runs.python("benchmarks/run_all.py", "--device=cuda")
    assert done.returncode == 2
    assert "--device cpu" in done.stderr
