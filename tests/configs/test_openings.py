"""Every YAML opens with what it is, and what it says there is so."""

import re

import pytest
from config_catalogue import CONFIGS, FILES, OVERLAYS, RUNS

WORDS = ("title", "Source", "Batch", "Command", "Expected", "Measured")
BATCH = re.compile(r"(\d+) images x (\d+) \w+ x (\d+) machines? = (\d+)")
STEPS = re.compile(r"(\d[\d ]*) steps an epoch")
IN_ALL = re.compile(r"(\d[\d ]*) in all")
# A list entry, a KEY: or a some_key: after the hash; prose has none of them.
COMMENTED_OUT = re.compile(r"^\s*#\s*(?:- |[A-Z_]{3,}:|[a-z]+_[a-z_]+:)", re.MULTILINE)
IMAGES = {"50 000 images": 50_000, "of 5000 images": 5_000}
IMAGENET = 1_281_167


def name(file):
    return file.name


def composed(file, compose):
    """The command in the opening, with two more overrides behind it."""
    more = ("config.SEED_VALUE=5", "config.OPTIMIZER.momentum=0.8")
    return compose(*file.command, *more).config


def number(text):
    return int(text.replace(" ", ""))


def test_there_are_runs_and_overlays():
    assert len(RUNS) >= 15 and len(OVERLAYS) >= 10


@pytest.mark.parametrize("file", FILES, ids=name)
def test_opening_has_all_its_parts(file):
    assert file.text.startswith("# @package _global_\n# ")
    missing = [word for word in WORDS if not file.opening.get(word)]
    assert not missing, f"{file.name}.yaml opens without {missing}"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_measured_has_a_date_or_says_not_run(file):
    measured = file.opening["Measured"]
    assert measured.startswith("not run here") or re.search(r"20\d\d-\d\d", measured)


@pytest.mark.parametrize("file", FILES, ids=name)
def test_no_alternative_is_commented_out(file):
    body = file.text[file.text.index("\nconfig:") :] if "\nconfig:" in file.text else ""
    assert not COMMENTED_OUT.findall(body)


@pytest.mark.parametrize("file", RUNS + OVERLAYS, ids=name)
def test_command_names_the_file_itself_and_composes(file, compose):
    assert file.override in file.command
    assert composed(file, compose).DATA.TRAIN.DATA_PATHS


@pytest.mark.parametrize("file", RUNS + OVERLAYS, ids=name)
def test_command_line_wins(file, compose):
    config = composed(file, compose)
    assert config.SEED_VALUE == 5 and config.OPTIMIZER.momentum == 0.8


@pytest.mark.parametrize("file", RUNS + OVERLAYS, ids=name)
def test_batch_arithmetic_is_that_of_the_command(file, compose):
    said = BATCH.search(file.opening["Batch"])
    if said is None:
        assert file.is_overlay and "laid over" in file.opening["Batch"]
        return
    config = composed(file, compose)
    images, processes, machines, total = map(int, said.groups())
    assert images == config.DATA.TRAIN.BATCHSIZE_PER_REPLICA
    assert processes == config.DISTRIBUTED.NUM_PROC_PER_NODE
    assert machines == config.DISTRIBUTED.NUM_NODES
    assert images * processes * machines == total


@pytest.mark.parametrize(
    "file", [f for f in RUNS + OVERLAYS if STEPS.search(f.opening["Batch"])], ids=name
)
def test_steps_said_follow_from_images_and_batch(file, compose):
    said = file.opening["Batch"]
    known = [count for words, count in IMAGES.items() if words in said]
    images, batch = known[0] if known else IMAGENET, int(BATCH.search(said)[4])
    config = composed(file, compose)
    steps = images // batch if config.DATA.TRAIN.DROP_LAST else -(-images // batch)
    assert number(STEPS.search(said)[1]) == steps
    if in_all := IN_ALL.search(said):
        assert number(in_all[1]) == steps * config.OPTIMIZER.num_epochs


@pytest.mark.parametrize("file", FILES, ids=name)
def test_docs_name_the_file(file):
    page = (CONFIGS.parent / "docs" / "configs.md").read_text(encoding="utf-8")
    short = file.name.removeprefix("pretrain/swav/")
    assert f"`{short}`" in page, f"docs/configs.md does not name `{short}`"
