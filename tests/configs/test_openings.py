"""Every YAML opens with what it is, and what it says there is so."""

import re

import pytest
from config_catalogue import BASES, CONFIGS, EVALUATIONS, FILES, OVERLAYS, RUNS

WORDS = ("title", "Source", "Batch", "Command", "Expected", "Measured")
BATCH = re.compile(r"(\d+) images x (\d+) \w+ x (\d+) machines? = (\d+)")
STEPS = re.compile(r"(\d[\d ]*) steps an epoch")
IN_ALL = re.compile(r"(\d[\d ]*) in all")
# A list entry, a KEY: or a some_key: after the hash; prose has none of them.
COMMENTED_OUT = re.compile(r"^\s*#\s*(?:- |[A-Z_]{3,}:|[a-z]+_[a-z_]+:)", re.MULTILINE)
IMAGES = {"50 000 images": 50_000, "of 5000 images": 5_000}
IMAGENET = 1_281_167
BANK = re.compile(
    r"bank (\d+) x ([\d ]+) x (\d+) x (\d) bytes = ([\d.]+) MB over (\d+) \w+"
    r"(?:, ([\d.]+) MB on each)?"
)
LABELS = re.compile(r"[Ll]abels (\d+) x ([\d ]+) x 4 bytes = ([\d.]+) MB")
GROWTH = re.compile(r"checkpoint grows by ([\d.]+) \+ ([\d.]+) = ([\d.]+) MB")
SIMILARITIES = re.compile(r"similarities (\d+) x ([\d ]+) x 4 bytes = ([\d.]+) MB")
# Three digits are enough.
ROUNDED = 2e-3
WITH_BANK = [file for file in BASES + RUNS if file.clusters]


def name(file):
    return file.name


def composed(file, compose):
    """The command in the opening, with two more overrides behind it."""
    more = ("config.SEED_VALUE=5", "config.OPTIMIZER.momentum=0.8")
    return compose(*file.command, *more).config


def number(text):
    return int(text.replace(" ", ""))


def images_of(file):
    """Images of the data set that the batch arithmetic is about."""
    said = file.opening["Batch"]
    known = [count for words, count in IMAGES.items() if words in said]
    return known[0] if known else IMAGENET


def test_there_are_runs_and_overlays():
    assert len(RUNS) >= 15 and len(OVERLAYS) >= 10


@pytest.mark.parametrize("file", FILES, ids=name)
def test_opening_has_all_its_parts(file):
    assert file.text.startswith("# @package _global_\n# ")
    wanted = (*WORDS, "Memory") if file.clusters else WORDS
    missing = [word for word in wanted if not file.opening.get(word)]
    assert not missing, f"{file.name}.yaml opens without {missing}"


@pytest.mark.parametrize("file", EVALUATIONS, ids=name)
def test_evaluations_say_tolerance_and_cost(file):
    """A tolerance and whose it is; a cost that was measured, or says it was not."""
    tolerance, cost = file.opening.get("Tolerance", ""), file.opening.get("Cost", "")
    if file.is_base:
        assert "see there" in tolerance and "see there" in cost
        return
    assert re.search(r"\d|standard deviation", tolerance), "no tolerance"
    assert re.search(r"our choice|paper|authors|draws", tolerance), "whose is it?"
    assert re.search(r"estimate, not measured|not timed here|\b20\d\d-\d\d", cost)
    for word in ("Tolerance", "Cost"):
        assert f"{word}:" not in file.opening["Expected"]


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
    "file",
    [f for f in RUNS + OVERLAYS if STEPS.search(f.opening.get("Batch", ""))],
    ids=name,
)
def test_steps_said_follow_from_images_and_batch(file, compose):
    said = file.opening["Batch"]
    images, batch = images_of(file), int(BATCH.search(said)[4])
    config = composed(file, compose)
    steps = images // batch if config.DATA.TRAIN.DROP_LAST else -(-images // batch)
    assert number(STEPS.search(said)[1]) == steps
    if in_all := IN_ALL.search(said):
        assert number(in_all[1]) == steps * config.OPTIMIZER.num_epochs


@pytest.mark.parametrize("file", WITH_BANK, ids=name)
def test_memory_said_is_that_of_the_command(file, complete):
    """Bank: banks x images x dimension x bytes, over the ranks; labels: int32."""
    from vissl_swav.host.settings import run_facts

    said = file.opening["Memory"]
    config = complete(*file.command)
    facts, settings = run_facts(config), config.LOSS[file.method]
    banks, images, dim, size, total, ranks, each = BANK.search(said).groups()
    assert (int(banks), int(dim)) == (
        len(settings.crops_for_assign),
        settings.embedding_dim,
    )
    assert (int(size), int(ranks)) == (facts.bytes_per_bank_value, facts.world_size)
    assert number(images) == images_of(file)
    megabytes = int(banks) * number(images) * int(dim) * int(size) / 1e6
    assert float(total) == pytest.approx(megabytes, rel=ROUNDED)
    assert (each is not None) == (facts.world_size > 1)
    if each:
        assert float(each) == pytest.approx(megabytes / int(ranks), rel=ROUNDED)
    heads, labelled, told = LABELS.search(said).groups()
    assert int(heads) == len(settings.num_prototypes)
    assert number(labelled) == number(images)
    assert float(told) == pytest.approx(int(heads) * number(images) * 4e-6, rel=ROUNDED)
    check_growth(said, float(total), float(told), facts.world_size)


def check_growth(said, bank, labels, ranks):
    """Images change ranks: until they are settled, 2 - 1 / ranks rows an image.

    The bank's memory grows in steps, by a quarter at most. At the end of an epoch it is
    settled before it is saved: one row an image.
    """
    of_bank, of_labels, total = GROWTH.search(said).groups()
    assert (float(of_bank), float(of_labels)) == (bank, labels)
    assert float(total) == pytest.approx(bank + labels, rel=ROUNDED)
    factor = re.search(r"up to ([0-9.]+) x that", said)
    if ranks == 1:
        assert factor is None
    else:
        rows = 2 - 1 / ranks
        assert rows <= float(factor[1]) <= 1.25 * rows


@pytest.mark.parametrize(
    "file", [f for f in RUNS if SIMILARITIES.search(f.opening.get("Memory", ""))]
)
def test_similarities_said_are_those_of_the_command(file, complete):
    """Own rows x all rows, in float32; not more than the setting holds."""
    from vissl_swav.host.settings import contrast, run_facts

    config = complete(*file.command)
    found, facts = contrast(config), run_facts(config)
    own, total, megabytes = SIMILARITIES.search(file.opening["Memory"]).groups()
    assert int(own) == facts.batch_per_process * found.num_crops
    assert number(total) == found.num_images * found.num_crops
    assert int(own) * number(total) <= found.max_similarities
    said = int(own) * number(total) * 4e-6
    assert float(megabytes) == pytest.approx(said, rel=2 * ROUNDED)


@pytest.mark.parametrize("file", FILES, ids=name)
def test_docs_name_the_file(file):
    page = (CONFIGS.parent / "docs" / "configs.md").read_text(encoding="utf-8")
    short = file.name.removeprefix("pretrain/").removeprefix("swav/")
    assert f"`{short}`" in page, f"docs/configs.md does not name `{short}`"
