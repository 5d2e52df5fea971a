"""The health and the non-finite hook: on a stand-in task, and in whole runs."""

import io
import json
import logging
import math
from types import SimpleNamespace

import gloo
import health_task
import host_runs
import pytest
import torch
from health_task import Task, config, started


def written(folder):
    text = (folder / "health.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def health(host):
    from vissl_swav.host.health_hook import HealthHook

    made = []

    def make():
        made.append(HealthHook())
        return made[-1]

    yield make
    for hook in made:
        hook.on_end(None)


@pytest.fixture
def nonfinite(host):
    from vissl_swav.host.nonfinite_hook import NonFiniteHook

    return NonFiniteHook


def test_figures_of_a_step_are_written_and_logged(health, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    task = started(Task(tmp_path), health())
    written_to = []
    writer = SimpleNamespace(add_scalar=lambda *a, **k: written_to.append((a, k)))
    task.hooks.append(SimpleNamespace(tb_writer=writer))
    losses = []
    for _ in range(10):
        task.step()
        losses.append(float(task.last_batch.loss))
    task.run("on_phase_end")
    task.run("on_end")
    *readings, epoch = written(tmp_path)
    assert [line["step"] for line in readings] == [2, 4, 6, 8, 10]
    for line in readings:
        mean = sum(losses[line["step"] - 2 : line["step"]]) / 2
        assert line["loss"] == pytest.approx(mean, abs=1e-5)
        assert line["ceiling"] == pytest.approx(math.log(5), abs=1e-5)
        assert line["floor"] == 0
        assert 0 < line["feature_spread"] < 1.01
        assert line["norm_error"] < 1e-5
        assert line["code_entropy"] < line["mean_code_entropy"] <= math.log(5) + 1e-6
    # 8 rows a prototype make a window: 40 rows, 5 steps of 8 images.
    assert "prototypes_used" not in readings[1]
    assert 1 <= readings[2]["prototypes_used"] <= 5
    assert epoch["distinct_prototypes"] == 5 == epoch["num_prototypes"]
    lines = [r.message for r in caplog.records if r.message.startswith("Health at")]
    assert len(lines) == 5 and "ln K 1.6094" in lines[0]
    tags = {arguments[0] for arguments, _ in written_to}
    assert {"Health/loss", "Health/feature_spread"} <= tags
    assert {named["global_step"] for _, named in written_to} == {2, 4, 6, 8, 10}


def test_codes_are_those_of_the_loss(health, tmp_path):
    """With a queue too: the figure equals that of the loss's own Sinkhorn problem."""
    from vissl_swav.core.sinkhorn import sinkhorn
    from vissl_swav.host.queue_hook import QueueHook

    cfg = config(queue=32)
    cfg.LOSS.swav["queue_start_step"] = 0
    task = Task(tmp_path, cfg)
    started(task, health())
    task.hooks.insert(0, QueueHook())
    task.base_loss.train()
    for _ in range(8):
        task.step()
    scores = task.last_batch.model_output[1].detach()[:8]
    joined = torch.cat([scores, task.base_loss.queue_scores[0][0]])
    Q = sinkhorn(joined, epsilon=0.05)[:8].double()
    entropy = float(torch.special.entr(Q).sum(1).mean())
    last = written(tmp_path)[-1]
    assert last["code_entropy"] == pytest.approx(entropy, abs=1e-5)
    assert last["queue_age"] == 4 and "queue_drift" in last
    assert "queue_age" not in written(tmp_path)[0], "not in use until it is full"


def test_the_loss_does_not_see_the_hooks(health, nonfinite, tmp_path):
    plain, watched = Task(tmp_path), Task(tmp_path)
    started(watched, nonfinite(), health())
    for _ in range(6):
        plain.step()
        watched.step()
        assert torch.equal(plain.last_batch.loss, watched.last_batch.loss)
    pairs = zip(plain.model.parameters(), watched.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_features_that_are_not_of_unit_length_are_told_once(health, tmp_path, caplog):
    task = started(Task(tmp_path), health())
    normal = task.model.forward

    def longer(crops):
        Z, _ = normal(crops)
        return [1.5 * Z, task.model.heads[0].prototypes0(1.5 * Z)]

    task.model.forward = longer
    for _ in range(6):
        task.step()
    told = [r.message for r in caplog.records if "lengths off 1 by 0.5" in r.message]
    assert len(told) == 1 and "normalize_feats" in told[0]
    assert written(tmp_path)[0]["norm_error"] == pytest.approx(0.5, abs=1e-5)


def collapse(task, steps):
    """Every image is grey, and no step trains: the loss stays at its ceiling."""
    with torch.no_grad():
        task.model.heads[0].prototypes0.weight.fill_(0.5)
    task.sgd.param_groups[0]["lr"] = 0.0
    for _ in range(steps):
        task.step(torch.ones(16, 3, 2, 2))


def test_windows_go_through_a_checkpoint(health, tmp_path):
    """150 steps, a resume, 150 steps: the verdict falls at step 200, once."""
    first = health()
    collapse(started(Task(tmp_path), first), 150)
    stream = io.BytesIO()
    torch.save(first.get_classy_state(), stream)
    stream.seek(0)
    state = torch.load(stream, weights_only=True)
    first.on_end(None)
    second = health()
    second.set_classy_state(state)
    task = Task(tmp_path)
    task.iteration = 150
    collapse(started(task, second), 150)
    verdicts = [line for line in written(tmp_path) if "verdict" in line]
    assert [(v["step"], v["verdict"]) for v in verdicts] == [(200, "COLLAPSED")]
    assert "freeze the prototypes" in verdicts[0]["remedies"][0]
    assert second.get_classy_state()["judge"]["verdict"] == "COLLAPSED"


@pytest.mark.parametrize("change", ["prototypes", "epoch", "nothing saved"])
def test_windows_of_another_problem_begin_anew(health, tmp_path, change):
    first = health()
    collapse(started(Task(tmp_path), first), 150)
    state = {} if change == "nothing saved" else first.get_classy_state()
    cfg = config()
    if change == "prototypes":
        cfg.LOSS.swav["num_prototypes"] = [6]
    task, second = Task(tmp_path, cfg), health()
    if change == "epoch":
        task.dataloaders = {"train": range(60)}
    second.set_classy_state(state)
    started(task, second)
    assert second.get_classy_state()["judge"]["steps"] == 0


@pytest.mark.parametrize("action", ["warn", "ignore"])
def test_a_collapse_is_said_once_with_remedies(health, tmp_path, caplog, action):
    task = started(Task(tmp_path, config(ON_COLLAPSE=action)), health())
    collapse(task, 300)
    said = [r for r in caplog.records if "COLLAPSED" in r.message]
    assert len(said) == (1 if action == "warn" else 0)
    (line,) = [line for line in written(tmp_path) if "verdict" in line]
    assert line["verdict"] == "COLLAPSED" and line["step"] == 200
    if said:
        message = said[0].message
        assert said[0].levelno == logging.WARNING
        assert "ln K = 1.6094" in message and "(1) freeze the prototypes" in message


def test_a_collapse_ends_the_run_where_it_shall(health, tmp_path):
    from vissl_swav.health.errors import Collapsed

    task = started(Task(tmp_path, config(ON_COLLAPSE="stop")), health())
    with pytest.raises(Collapsed, match="COLLAPSED at step 200.*ON_COLLAPSE is stop"):
        collapse(task, 300)
    assert task.iteration == 199


def test_nan_in_the_crops_is_named_and_kept(nonfinite, tmp_path):
    from vissl_swav.health.errors import NotFinite

    task = started(Task(tmp_path), nonfinite())
    task.step()
    crops = torch.randn(16, 3, 2, 2)
    crops[8 + 5, 1, 0, 0] = math.nan
    with pytest.raises(NotFinite) as caught:
        task.step(crops)
    message = str(caught.value)
    assert "crops of 2 x 2 pixels: 1 of 192 values are NaN, 0 infinite" in message
    assert "rank 0, step 2, learning rate 0.1" in message
    assert isinstance(caught.value, FloatingPointError), "as the host's own"
    (path,) = tmp_path.glob("nonfinite_*.pt")
    assert path.name == "nonfinite_step2_rank0.pt" and path.name in message
    found = torch.load(path, weights_only=True)
    assert found["images"][0] == 5, "the bad image comes first"
    torch.testing.assert_close(found["crops"][0][:8], crops[found["images"]])
    assert found["scores"][0].shape == (16, 5) and found["facts"]["step"] == 2


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("trunk.1.weight", "weight trunk.1.weight"),
        ("heads.0.prototypes0.weight", "weight heads.0.prototypes0.weight"),
    ],
)
def test_a_bad_weight_is_named_before_what_it_spoils(nonfinite, tmp_path, where, named):
    from vissl_swav.health.errors import NotFinite

    task = started(Task(tmp_path), nonfinite())
    with torch.no_grad():
        task.model.get_parameter(where)[0, 0] = math.inf
    with pytest.raises(NotFinite, match=f"first bad tensor is {named}: 0 of"):
        task.step()


def test_an_overflow_in_trunk_head_and_scores_is_named(nonfinite, tmp_path):
    """Finite crops and weights whose products are not."""
    from vissl_swav.health.errors import NotFinite

    for name, wanted in (
        ("trunk.1.weight", "that of trunk.1:"),
        ("heads.0.projection_head.0.weight", "that of heads.0.projection_head.0:"),
    ):
        task = started(Task(tmp_path), nonfinite())
        with torch.no_grad():
            weight = task.model.get_parameter(name)
            weight.copy_(3e38 * weight.sign())
        with pytest.raises(NotFinite, match=f"first bad tensor is {wanted}"):
            task.step()
    task = started(Task(tmp_path), nonfinite())
    with torch.no_grad():
        task.model.heads[0].prototypes0.weight.fill_(3e38)
    with pytest.raises(NotFinite, match="is scores of prototype head 0"):
        task.step()


def test_a_bad_gradient_ends_the_run_before_the_update(nonfinite, tmp_path):
    from vissl_swav.health.errors import NotFinite

    task = started(Task(tmp_path), nonfinite())
    task.step()
    before = [weight.detach().clone() for weight in task.model.parameters()]
    with pytest.raises(NotFinite, match="the gradient of .* is not finite .*step 2"):
        task.step(weigh=math.nan)
    after = task.model.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_scaled_gradient_is_skipped_up_to_a_limit(nonfinite, tmp_path, caplog):
    from vissl_swav.health.errors import NotFinite
    from vissl_swav.host.nonfinite_hook import MAX_SKIPPED

    caplog.set_level(logging.INFO)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    task = started(Task(tmp_path, scaler=scaler), nonfinite())
    task.step()
    before = [weight.detach().clone() for weight in task.model.parameters()]
    for _ in range(MAX_SKIPPED):
        task.step(weigh=math.inf)
    assert all(map(torch.equal, before, task.model.parameters())), "all skipped"
    assert scaler.get_scale() == 2.0**16 / 2**MAX_SKIPPED
    task.step()
    assert not all(map(torch.equal, before, task.model.parameters())), "goes on"
    skipped = [r.message for r in caplog.records if "step is skipped" in r.message]
    assert len(skipped) == MAX_SKIPPED and "loss scale 65536" in skipped[0]
    for _ in range(MAX_SKIPPED):
        task.step(weigh=math.inf)
    with pytest.raises(NotFinite, match=f"for {MAX_SKIPPED + 1} steps in a row"):
        task.step(weigh=math.inf)


def test_a_gradient_on_a_device_is_looked_at_later(nonfinite, tmp_path):
    """In the next step, before a checkpoint, or at the end of an epoch."""
    from vissl_swav.health.errors import NotFinite

    def spoiled():
        hook = nonfinite()
        task = started(Task(tmp_path), hook)
        hook.waits_for_gradients = lambda view: False
        task.step(weigh=math.nan)
        return task

    with pytest.raises(NotFinite, match="gradient"):
        spoiled().step()
    with pytest.raises(NotFinite, match="gradient"):
        spoiled().run("on_phase_end")
    task = Task(tmp_path)
    task.config.CHECKPOINT["CHECKPOINT_ITER_FREQUENCY"] = 1
    hook = nonfinite()
    hook.waits_for_gradients = lambda view: False
    started(task, hook)
    with pytest.raises(NotFinite, match="gradient"):
        task.step(weigh=math.nan)


def test_the_key_of_ours(host):
    from vissl_swav.host.errors import StartError
    from vissl_swav.host.settings import health as settings

    cfg = config()
    settings.infer_health(cfg)
    assert cfg["HEALTH"] == {"ENABLED": True, "ON_COLLAPSE": "warn"}
    assert settings.watches_health(cfg)
    assert not settings.watches_health(config(ENABLED=False))
    for wrong, words in (
        ({"ON_COLAPSE": "stop"}, "did you mean ON_COLLAPSE"),
        ({"ON_COLLAPSE": "halt"}, "wanted one of stop, warn, ignore"),
        ({"ENABLED": "yes"}, "wanted true or false"),
    ):
        with pytest.raises(StartError, match=words):
            settings.infer_health(config(**wrong))


def test_the_floor_moves_when_the_queue_comes_into_use(host):
    from vissl_swav.host.settings import health as settings

    cfg = config(queue=32)
    cfg.LOSS.swav["num_prototypes"] = [400]
    ceiling, floor = settings.bounds(cfg, with_queue=False)
    assert (ceiling, floor) == pytest.approx((math.log(400), math.log(400 / 8)))
    assert settings.bounds(cfg, with_queue=True)[1] == pytest.approx(math.log(10))
    assert cfg.LOSS.swav.queue_length == 32, "the config is as it was"


def test_figures_of_two_ranks_are_those_of_one(host, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for world, folder in enumerate(folders, start=1):
        folder.mkdir()
        names = gloo.run(health_task.watch, world, folder)
        assert names == [["health.jsonl"]] * world
    one, two = map(written, folders)
    assert len(one) == len(two) == 5
    for a, b in zip(one, two, strict=True):
        times = ("hook_share", "waiting_share")
        a, b = ({k: v for k, v in x.items() if k not in times} for x in (a, b))
        assert a == pytest.approx(b, abs=2e-6)


def test_all_ranks_end_alike_on_a_collapse(host, tmp_path):
    ends = gloo.run(health_task.collapse_everywhere, 2, tmp_path)
    assert [step for step, _ in ends] == [199, 199]
    assert all("COLLAPSED at step 200" in message for _, message in ends)


def test_every_rank_hears_which_rank_has_the_first_bad_tensor(host, tmp_path):
    first, second = gloo.run(health_task.spoil_rank_one, 2, tmp_path)
    assert "rank 1 has the first bad tensor (in its crops" in first
    assert "crops of 2 x 2 pixels: 1 of" in second and "; rank 1, step 1" in second
    names = sorted(path.name for path in tmp_path.glob("*.pt"))
    assert names == [f"nonfinite_step1_rank{rank}.pt" for rank in (0, 1)]


def train_two_processes(images, folder, loss, *, epochs):
    queue = ["config.LOSS.swav.queue_length=16"] if loss == "swav" else []
    host_runs.train(
        *host_runs.overrides(
            images,
            folder,
            "config.LOG_FREQUENCY=1",
            "config.CHECKPOINT.OVERWRITE_EXISTING=true",
            *queue,
            loss=loss,
            processes=2,
            epochs=epochs,
        )
    )


@pytest.mark.parametrize(
    "loss",
    [
        "swav",
        pytest.param("deepcluster_v2", marks=pytest.mark.slow),
        pytest.param("sela_v2", marks=pytest.mark.slow),
    ],
)
def test_a_run_of_two_processes_is_watched(images, tmp_path, loss):
    """Both ranks take part; the primary alone writes."""
    train_two_processes(images, tmp_path, loss, epochs=2)
    found = written(tmp_path)
    readings = [line for line in found if "loss" in line]
    losses = host_runs.losses(tmp_path)
    assert [line["loss"] for line in readings] == pytest.approx(losses, abs=1e-5)
    assert len(readings) == 6
    assert ("code_entropy" in readings[0]) == (loss == "swav")
    assert sum("distinct_prototypes" in line for line in found) == 2
    assert all("hook_share" in line for line in readings[1:3])
    if loss == "swav":
        # A resume for an epoch more: 3 steps on top of the checkpoint's 6.
        train_two_processes(images, tmp_path, loss, epochs=3)
        state = torch.load(tmp_path / "checkpoint.torch", weights_only=True)
        judge = state["classy_state_dict"]["hooks"]["HealthHook"]["judge"]
        assert judge["steps"] == 9
        assert judge["recent"] == host_runs.losses(tmp_path)


def test_a_run_that_blows_up_leaves_no_checkpoint_of_it(images, tmp_path):
    """The host alone would make the ruined weights the next resume's checkpoint."""
    rate = "config.OPTIMIZER.param_schedulers.lr.start_value=1e30"
    command = host_runs.overrides(images, tmp_path, rate)
    done = host_runs.python("-m", "vissl_swav.train", *command)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "the loss is not finite: the first bad tensor is" in output
    assert "rank 0, step 2" in output
    assert (tmp_path / "nonfinite_step2_rank0.pt").exists()
    assert not list(tmp_path.glob("*.torch")), "no checkpoint"


def test_it_can_be_switched_off(images, tmp_path):
    host_runs.train(
        *host_runs.overrides(images, tmp_path, "config.HEALTH.ENABLED=false")
    )
    assert not (tmp_path / "health.jsonl").exists()
    assert len(host_runs.losses(tmp_path)) == 6
