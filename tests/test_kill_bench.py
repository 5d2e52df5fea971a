"""The kill bench sees a difference; and a few kills, slowly."""

import importlib.util
import random
import subprocess
from types import SimpleNamespace

import host_runs
import pytest
import torch

from vissl_swav.compat import checkpoint_writing


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


class Running:
    """A start that takes its first step at the third look, and writes at the sixth."""

    def __init__(self, folder):
        self.folder, self.looks, self.waits = folder, 0, []

    def poll(self):
        self.looks += 1
        if self.looks == 3:
            with open(self.folder / "steps.jsonl", "a") as file:
                file.write('{"step": 5, "loss": 1}\n')
        if self.looks == 6:
            checkpoint_writing._scratch(self.folder).touch()

    def wait(self, timeout):
        self.waits.append((self.looks, timeout))
        raise subprocess.TimeoutExpired("run", timeout)


@pytest.mark.parametrize("kills", [0, 1])
def test_a_kill_falls_between_first_step_and_expected_end(bench, tmp_path, kills):
    """5 of 10 steps in 20 s are done; every other kill waits for a checkpoint."""
    case = bench.Case("swav", 1, kills=kills, num_steps=10, seconds_of_steps=20)
    moments = []
    for seed in range(30):
        (tmp_path / "steps.jsonl").write_text('{"step": 4, "loss": 1}\n')
        for file in tmp_path.glob(bench.PARTIAL):
            file.unlink()
        run = Running(tmp_path)
        args = SimpleNamespace(draw=random.Random(seed), start_up=0, writing=0.003)
        code, _ = bench.live_until_the_moment(args, case, tmp_path, run)
        assert code is None and run.waits[0][0] == 3
        assert len(run.waits) == 1 + kills
        if kills:
            assert run.waits[1][0] == 6 and run.waits[1][1] <= 0.003
            assert bench.is_writing(tmp_path)
        moments.append(run.waits[0][1])
    assert 0 < min(moments) < 2 and 8 < max(moments) < 10


def test_a_share_of_kills_may_fall_into_start_up(bench, tmp_path):
    case = bench.Case("swav", 1, seconds_to_first_step=7)
    run = Running(tmp_path)
    args = SimpleNamespace(draw=random.Random(0), start_up=1.0)
    bench.live_until_the_moment(args, case, tmp_path, run)
    ((looks, moment),) = run.waits
    assert looks == 0 and 0 < moment < 7


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
    assert f"3 kills by SIG{signal}, 3 of them after a first step" in done.stdout
    assert "0 of 2 runs differ" in done.stdout
