"""Runs that are told to end, and what they go on with afterwards."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import host_runs
import pytest
import torch
import yaml
from same_runs import assert_same_state, final, steps

from vissl_swav.compat.resumed_state import place_before_loading, position
from vissl_swav.host import preemption

# Many whole runs each; cores may be shared.
pytestmark = pytest.mark.timeout(600)

QUEUE = "config.LOSS.swav.queue_length=64"
EVERY_EPOCH = "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1"
# Than this machine may have cores.
MORE_RANKS = {"VISSL_SWAV_ALLOW_OVERSUBSCRIPTION": "1"}
RARELY = "config.CHECKPOINT.CHECKPOINT_FREQUENCY=100"
# The learning rate stays during an epoch: resumed in its middle it must not move.
BY_EPOCH = (
    "config.OPTIMIZER.param_schedulers.lr={name:cosine,start_value:0.01,"
    "end_value:0.0,update_interval:epoch}"
)


def to_one_or_all(process, *, group):
    """SIGTERM to the launching process, or to every one."""
    (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)


def interrupt(arguments, folder, *, after_step, send):
    """Starts a run, calls `send` once it has taken a step; its exit code, output."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=host_runs.ROOT,
        env={**host_runs.ENVIRONMENT, **MORE_RANKS},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    file, limit = folder / "steps.jsonl", time.monotonic() + 200
    try:
        while not file.exists() or len(file.read_text().splitlines()) < after_step:
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.02)
        send(process)
        output, _ = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, output


@pytest.mark.parametrize(
    ("method", "processes", "group"),
    [
        pytest.param("swav", 1, False, marks=pytest.mark.slow),
        ("swav", 2, True),
        pytest.param("deepcluster_v2", 2, False, marks=pytest.mark.slow),
        pytest.param("sela_v2", 3, True, marks=pytest.mark.slow),
    ],
)
def test_after_sigterm_it_goes_on_as_if_nothing_had_been(
    images, tmp_path, method, processes, group
):
    """In mid-epoch, no checkpoint due for long; to one process or all, workers too.

    The workers of the loaders are forked by a server, as on clusters; the signal to the
    group reaches them all.
    """
    extra = [RARELY, BY_EPOCH, "config.DATA.NUM_DATALOADER_WORKERS=1"]
    if method == "swav":
        extra.append(QUEUE)

    def arguments(folder):
        return host_runs.overrides(
            images, folder, *extra, loss=method, processes=processes, epochs=5
        )

    host_runs.train(*arguments(tmp_path / "whole"), env=MORE_RANKS)
    code, output = interrupt(
        ["-m", "vissl_swav.train", *arguments(tmp_path / "parts")],
        tmp_path / "parts",
        after_step=4,
        send=lambda process: to_one_or_all(process, group=group),
    )
    assert code == preemption.EXIT_CODE == 75, output[-3000:]
    (written,) = (tmp_path / "parts").glob("model_iteration*.torch")
    assert f"the checkpoint of step {written.stem[15:]} is written" in output
    assert "killed by signal" not in output, "a loader's worker died"
    host_runs.train(*arguments(tmp_path / "parts"), env=MORE_RANKS)
    whole, parts = (steps(tmp_path / name) for name in ("whole", "parts"))
    assert whole == parts and len(whole) == 15
    assert len({rate for _, rate in whole.values()}) == 5
    assert_same_state(final(tmp_path / "whole"), final(tmp_path / "parts"))


def kill_the_second_rank(process):
    """Ranks are started in their order, by multiprocessing's `spawn_main`."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    ranks = [
        int(child)
        for child in children.read_text().split()
        if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()
    ]
    assert len(ranks) == 2
    os.kill(sorted(ranks)[1], signal.SIGKILL)


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_run_and_is_named(images, tmp_path):
    """As by a machine short of memory: one message, no hang, and it goes on."""
    arguments = [
        *("-m", "vissl_swav.train"),
        *host_runs.overrides(
            images, tmp_path / "run", EVERY_EPOCH, processes=2, epochs=30
        ),
    ]
    began = []

    def send(process):
        began.append(time.monotonic())
        kill_the_second_rank(process)

    code, output = interrupt(arguments, tmp_path / "run", after_step=7, send=send)
    assert code == 1 and time.monotonic() - began[0] < 90
    last = output.rstrip().splitlines()[-1]
    assert last.startswith("vissl-swav train: rank 1 was ended by SIGKILL. ")
    assert "short of memory" in last and last.endswith("from the last checkpoint.")
    assert "ProcessExitedException" not in output
    assert "ProcessExitedException" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.slow
def test_ctrl_c_is_no_success(images, tmp_path):
    """In one process the host would say "All Done!" and exit with 0."""
    arguments = host_runs.overrides(images, tmp_path / "run", EVERY_EPOCH, epochs=50)
    # Whoever runs the tests in the background lets them ignore it, and their children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, output = interrupt(
            ["-m", "vissl_swav.train", *arguments],
            tmp_path / "run",
            after_step=4,
            send=lambda process: os.kill(process.pid, signal.SIGINT),
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130, output[-3000:]
    assert "Interrupted. The same command goes on from the last checkpoint." in output
    assert "All Done!" not in output and "Traceback" not in output


# `vissl-swav train` that gets the signal in the test phase of the second epoch.
TEST_PHASE_PROGRAM = """
import sys
from vissl_swav import train
from vissl_swav.host.preemption_hook import PreemptionHook

original = PreemptionHook.on_step

def on_step(self, task):
    if not task.train and task.train_phase_idx == 1:
        self._notice.give()
    original(self, task)

PreemptionHook.on_step = on_step
if __name__ == "__main__":
    sys.exit(train.main())
"""


def test_the_signal_in_a_test_phase(images, tmp_path):
    """The training phase before it is kept, though no checkpoint was due."""
    crops = "[{name:MultiCrop,size_crops:[24],num_crops:[2],crop_scales:[[0.3,1.0]]}]"
    extra = [
        *(RARELY, QUEUE, "config.TEST_MODEL=true"),
        f"config.DATA.TRAIN.TRANSFORMS={crops}",
        f"config.DATA.TEST.TRANSFORMS={crops}",
        f"config.DATA.TEST.DATA_PATHS=[{images}]",
        "config.DATA.TEST.DATA_SOURCES=[disk_folder]",
        "config.DATA.TEST.BATCHSIZE_PER_REPLICA=16",
        "config.DATA.TEST.COLLATE_FUNCTION=multi_crop_collator",
    ]

    def arguments(name):
        return host_runs.overrides(images, tmp_path / name, *extra, epochs=3)

    host_runs.train(*arguments("whole"))
    program = tmp_path / "in_a_test_phase.py"
    program.write_text(TEST_PHASE_PROGRAM)
    done = host_runs.python(program, *arguments("parts"))
    assert done.returncode == preemption.EXIT_CODE, done.stderr[-3000:]
    assert (tmp_path / "parts" / "model_phase1.torch").exists()
    assert len(host_runs.lines(tmp_path / "parts")) == 6
    host_runs.train(*arguments("parts"))
    whole, parts = (steps(tmp_path / name) for name in ("whole", "parts"))
    assert whole == parts and len(host_runs.lines(tmp_path / "parts")) == 9
    assert_same_state(final(tmp_path / "whole"), final(tmp_path / "parts"))


# `vissl-swav train`, with a trunk that drops a quarter of its first layer's output.
DROPOUT_PROGRAM = """
import sys
import torch
from vissl_swav import train

def drop(module, inputs, output):
    return torch.nn.functional.dropout(output, 0.25) if module.training else output

def with_dropout():
    from vissl_swav.host import resnet_small
    original = resnet_small.ResNetSmall.__init__
    def init(self, *arguments, **settings):
        original(self, *arguments, **settings)
        for name, block in self.named_modules():
            if name.endswith("layer1"):
                block.register_forward_hook(drop)
                return
        raise AssertionError([name for name, _ in self.named_modules()])
    resnet_small.ResNetSmall.__init__ = init

if __name__ in ("__main__", "__mp_main__"):
    import vissl.models.trunks
    with_dropout()
if __name__ == "__main__":
    sys.exit(train.main())
"""


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_dropout_draws_what_it_would_have_drawn(images, tmp_path, processes):
    """From a checkpoint in mid-epoch and from one at the end of an epoch."""
    program = tmp_path / "with_dropout.py"
    program.write_text(DROPOUT_PROGRAM)

    def run(folder, *extra):
        done = host_runs.python(
            program,
            *host_runs.overrides(
                images,
                folder,
                QUEUE,
                EVERY_EPOCH,
                *extra,
                processes=processes,
                epochs=3,
            ),
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    often = "config.CHECKPOINT.CHECKPOINT_ITER_FREQUENCY=5"
    run(tmp_path / "whole", often)
    host_runs.train(
        *host_runs.overrides(
            images, tmp_path / "without", QUEUE, processes=processes, epochs=1
        )
    )
    whole = steps(tmp_path / "whole")
    assert steps(tmp_path / "without")[1] != whole[1], "nothing was dropped"
    for name, done in (("model_iteration5", 5), ("model_phase0", 3)):
        part = tmp_path / name
        part.mkdir()
        for file in (f"{name}.torch", "train_config.yaml"):
            shutil.copy(tmp_path / "whole" / file, part)
        run(part)
        assert steps(part) == {s: v for s, v in whole.items() if s > done}
        assert_same_state(final(tmp_path / "whole"), final(part))


def test_a_checkpoint_at_the_last_step_of_an_epoch(images, tmp_path):
    """Killed between it and that of the epoch's end: no step of it is left."""
    often = "config.CHECKPOINT.CHECKPOINT_ITER_FREQUENCY=3"

    def run(name):
        host_runs.train(
            *host_runs.overrides(images, tmp_path / name, QUEUE, often, epochs=2)
        )

    run("whole")
    for number in (3, 6):
        part = tmp_path / f"part{number}"
        part.mkdir()
        for file in (f"model_iteration{number}.torch", "train_config.yaml"):
            shutil.copy(tmp_path / "whole" / file, part)
        run(part.name)
        assert_same_state(final(tmp_path / "whole"), final(part))


def test_a_torn_checkpoint_is_passed_over(images, tmp_path):
    settings = host_runs.overrides(images, tmp_path / "run", EVERY_EPOCH, epochs=3)
    host_runs.train(*settings)
    folder = tmp_path / "run"
    whole = steps(folder)
    (folder / "model_final_checkpoint_phase2.torch").unlink()
    torn = folder / "model_phase1.torch"
    torn.write_bytes(torn.read_bytes()[:5000])
    done = host_runs.train(*settings)
    assert "model_phase1.torch is cut short" in done.stdout + done.stderr
    assert "Resuming from model_phase0.torch" in done.stdout + done.stderr
    assert steps(folder) == whole and len(host_runs.lines(folder)) == 9 + 6


@pytest.mark.slow
def test_another_global_batch_goes_on_at_the_right_epoch(images, tmp_path):
    """3 steps of 16 images an epoch, then 6 of 8."""
    folder = tmp_path / "run"
    host_runs.train(*host_runs.overrides(images, folder, EVERY_EPOCH, epochs=3))
    (folder / "model_final_checkpoint_phase2.torch").unlink()
    done = host_runs.train(
        *host_runs.overrides(
            images,
            folder,
            EVERY_EPOCH,
            "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=8",
            epochs=3,
        )
    )
    output = done.stdout + done.stderr
    assert "goes on after 2 epochs and 0 steps, as step 13" in output
    assert "BATCHSIZE_PER_REPLICA 16 -> 8" in output
    assert [line["step"] for line in host_runs.lines(folder)[9:]] == list(range(13, 19))


@pytest.mark.parametrize(
    ("iteration", "old", "new", "wanted"),
    [
        (6, (16, 3), (16, 3), 6),
        (6, (16, 3), (8, 6), 12),
        (7, (16, 3), (8, 6), 14),
        (13, (8, 6), (16, 3), 6),  # 8 images of the third epoch come again.
        (14, (8, 6), (16, 3), 7),
        (6, (16, 3), (16, 5), 10),
        (7, (16, 5), (16, 5), 10),  # of other data: the epoch starts again
    ],
)
def test_position(iteration, old, new, wanted):
    found = position(
        phases=2,
        iteration=iteration,
        old_batch=old[0],
        old_steps=old[1],
        batch=new[0],
        steps=new[1],
    )
    assert found == wanted


def test_the_stored_config_is_plain_data(compose, tmp_path):
    """A tuple in it once made every checkpoint beside it a stranger's."""
    from vissl_swav.host import launch

    config = compose()
    config.OPTIMIZER["betas"] = (0.9, 0.999)
    launch._save(config, tmp_path)
    stored = yaml.safe_load((tmp_path / "train_config.yaml").read_text())
    assert stored["OPTIMIZER"]["betas"] == [0.9, 0.999]
    launch._save(config, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["train_config.yaml"]


def test_hooks_get_their_state_back_before_the_start(host):
    from classy_vision.hooks.classy_hook import ClassyHook

    class Counter(ClassyHook):
        on_start = on_phase_start = on_step = ClassyHook._noop
        on_phase_end = on_end = ClassyHook._noop

    class New(Counter):
        pass

    class Task:
        checkpoint = None
        optimizer = SimpleNamespace(optimizer=SimpleNamespace(param_groups=[{}]))

        def _set_classy_state(self, state):
            self.taken = state

    place_before_loading(SimpleNamespace(SelfSupervisionTask=Task))
    old, task = Counter(), Task()
    old.state.count = 3
    task.hooks = [Counter(), New()]
    state = {"hooks": {hook.name(): hook.get_classy_state() for hook in [old]}}
    task._set_classy_state(state)
    assert task.taken is state
    assert [vars(hook.state) for hook in task.hooks] == [{"count": 3}, {}]
    task._set_classy_state({})


def test_a_process_that_does_not_come_to_an_end_is_ended(tmp_path):
    """The time after the signal is over in the middle of a step."""
    program = (
        "import time\n"
        "from vissl_swav.host import preemption\n"
        "notice = preemption.listen()\n"
        "print('ready', flush=True)\n"
        "while not notice.given: time.sleep(0.01)\n"
        "time.sleep(100)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=host_runs.ROOT,
        env={**host_runs.ENVIRONMENT, preemption.SECONDS: "0.5"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert process.returncode == preemption.EXIT_CODE
    assert 0.4 < time.monotonic() - began < 30
    assert "0.5 s after SIGTERM" in error


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan"])
def test_a_time_that_is_none(monkeypatch, text):
    monkeypatch.setenv(preemption.SECONDS, text)
    with pytest.raises(ValueError, match=preemption.SECONDS):
        preemption.Notice()


def test_a_step_has_its_own_seeds():
    pytest.importorskip("vissl")
    from vissl_swav.host.step_seeds_hook import seed_generators, step_seed

    places = [(s, r, n) for s in (0, 1) for r in range(4) for n in range(100)]
    seeds = [step_seed(seed=s, rank=r, step=n) for s, r, n in places]
    assert len(set(seeds)) == len(places)
    draws = []
    for _ in range(2):
        seed_generators(seeds[5])
        draws.append(torch.rand(3))
        torch.rand(1)
    assert torch.equal(*draws)
