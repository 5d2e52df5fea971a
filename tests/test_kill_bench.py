"""The kill bench sees a difference; and a few kills, slowly."""

import importlib.util

import host_runs
import pytest
import torch


@pytest.fixture(scope="module")
def bench():
    path = host_runs.ROOT / "benchmarks" / "kill_bench.py"
    spec = importlib.util.spec_from_file_location("kill_bench", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def runs(tmp_path):
    """Two folders that agree: 3 steps, one of them taken twice in the second."""

    def make(name, steps):
        folder = tmp_path / name
        folder.mkdir()
        lines = [f'{{"step": {step}, "loss": {5 - step}}}\n' for step in steps]
        (folder / "steps.jsonl").write_text("".join(lines))
        content = {
            "loss": {"queue": torch.zeros(3), "_extra_state": {"ranks": []}},
            "classy_state_dict": {"weights": torch.ones(2), "losses": [len(steps)]},
            "iteration": 3,
        }
        torch.save(content, folder / "model_final_checkpoint_phase0.torch")
        return folder

    return make("whole", [1, 2, 3]), make("killed", [1, 2, 2, 3])


def compared(bench, runs):
    case = bench.Case("swav", 1, kills=1)
    bench.compare(case, *runs)
    return case


def test_runs_that_agree(bench, runs):
    case = compared(bench, runs)
    assert case.differences == [] and case.steps_redone == 1


def test_a_loss_that_differs(bench, runs):
    file = runs[1] / "steps.jsonl"
    file.write_text(file.read_text().replace('"loss": 2}', '"loss": 2.0000001}'))
    assert "loss of step 3" in compared(bench, runs).differences[0]


def test_a_step_taken_twice_with_two_losses(bench, runs):
    file = runs[1] / "steps.jsonl"
    file.write_text(file.read_text().replace('"loss": 3}', '"loss": 3.5}', 1))
    assert "step 2 gave two losses" in compared(bench, runs).differences[0]


@pytest.mark.parametrize("part", ["loss", "classy_state_dict"])
def test_state_that_differs_in_one_bit(bench, runs, part):
    file = runs[1] / "model_final_checkpoint_phase0.torch"
    content = torch.load(file)
    name = {"loss": "queue", "classy_state_dict": "weights"}[part]
    content[part][name][1] += 1e-7
    torch.save(content, file)
    case = compared(bench, runs)
    assert case.differences == [f"final {part}.{name}"]
    assert f"final {part}.{name} |" in bench.table([case])


def test_a_run_that_has_no_end(bench, runs):
    (runs[1] / "model_final_checkpoint_phase0.torch").unlink()
    assert "final checkpoints" in compared(bench, runs).differences[0]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_three_kills(host, signal):
    done = host_runs.python(
        "benchmarks/kill_bench.py",
        *("--kills=3", "--epochs=5", "--methods", "swav", "deepcluster_v2"),
        *("--ranks", "2", f"--signal={signal}"),
        timeout=580,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"3 kills by SIG{signal}, 0 of 2 runs differ" in done.stdout
