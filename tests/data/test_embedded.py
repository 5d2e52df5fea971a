"""The embedded set: reproducible, complete or rebuilt, and not given away by pixels."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from vissl_swav.data import EMBEDDED_CLASSES, DataError, build, draw, embedded
from vissl_swav.data.glyphs import GLYPHS
from vissl_swav.data.scenes import SIDE

NUM_CLASSES = len(EMBEDDED_CLASSES)


def accuracy_of_neighbours(train, train_labels, test, test_labels, *, k=20):
    """Percent right by vote of the k nearest in cosine, weights exp(cosine / 0.07)."""
    train, test = (torch.nn.functional.normalize(x, dim=1) for x in (train, test))
    similarity, nearest = (test @ train.T).topk(k, dim=1)
    votes = torch.zeros(len(test), NUM_CLASSES)
    votes.scatter_add_(1, train_labels[nearest], (similarity / 0.07).exp())
    return 100 * (votes.argmax(dim=1) == test_labels).float().mean().item()


def draw_many(split, count):
    pairs = [draw(split, index) for index in range(count)]
    labels = torch.tensor([label for _, label in pairs])
    return np.stack([levels for levels, _ in pairs]), labels


@pytest.fixture(scope="module")
def train_set():
    return draw_many("train", 4000)


@pytest.fixture(scope="module")
def test_set():
    return draw_many("test", 1000)


def as_pixels(levels):
    return torch.from_numpy(levels.reshape(len(levels), -1)).float() / 255


def as_centred_pixels(levels):
    return as_pixels(levels) - 0.5


def as_luma(levels):
    weights = np.array([0.299, 0.587, 0.114])
    return as_centred_pixels((levels @ weights).astype(np.float32))


def as_histogram(levels, *, bins):
    steps = (levels.astype(np.int64) * bins) >> 8
    cells = ((steps[..., 0] * bins + steps[..., 1]) * bins + steps[..., 2]).reshape(
        len(levels), -1
    )
    counts = [np.bincount(row, minlength=bins**3) for row in cells]
    return torch.from_numpy(np.stack(counts)).float()


def as_coarse_histogram(levels):
    return as_histogram(levels, bins=4)


def as_fine_histogram(levels):
    return as_histogram(levels, bins=8)


def as_mean_and_spread(levels):
    flat = torch.from_numpy(levels.reshape(len(levels), -1, 3)).float()
    moments = torch.cat([flat.mean(dim=1), flat.std(dim=1)], dim=1)
    return (moments - moments.mean(dim=0)) / moments.std(dim=0)


@pytest.mark.parametrize(
    "describe",
    [
        as_pixels,
        as_centred_pixels,
        as_luma,
        as_coarse_histogram,
        as_fine_histogram,
        as_mean_and_spread,
    ],
)
def test_pixels_and_colours_do_not_give_the_class_away(describe, train_set, test_set):
    """At most twice chance."""
    train, test = describe(train_set[0]), describe(test_set[0])
    found = accuracy_of_neighbours(train, train_set[1], test, test_set[1])
    assert found <= 2 * 100 / NUM_CLASSES


def test_glyphs_have_equal_ink_and_sit_at_the_origin():
    from PIL import ImageDraw

    scale, centre = 60, 128
    for name, glyph in GLYPHS.items():
        canvas = Image.new("L", (2 * centre, 2 * centre))
        corners = [tuple(point) for point in (glyph * scale + centre).tolist()]
        ImageDraw.Draw(canvas).polygon(corners, fill=1)
        ink = np.asarray(canvas).astype(float)
        assert ink.sum() / scale**2 == pytest.approx(1.0, abs=0.08), name
        middle = (np.indices(ink.shape) * ink).sum(axis=(1, 2)) / ink.sum()
        assert middle == pytest.approx(centre, abs=1.5), name


def test_glyphs_differ_in_shape():
    """No two cover each other by more than 9 tenths."""
    masks = {}
    from PIL import ImageDraw

    for name, glyph in GLYPHS.items():
        canvas = Image.new("1", (128, 128))
        corners = [tuple(point) for point in (glyph * 30 + 64).tolist()]
        ImageDraw.Draw(canvas).polygon(corners, fill=1)
        masks[name] = np.asarray(canvas)
    for first, second in itertools.combinations(masks.values(), 2):
        assert (first & second).sum() < 0.9 * (first | second).sum()


def test_nuisances_vary_within_a_class():
    """Colour, place and background of two images of a class have nothing in common."""
    levels = np.stack(
        [draw("train", index)[0] for index in range(0, 40 * NUM_CLASSES, NUM_CLASSES)]
    )
    flat = as_pixels(levels)
    correlation = torch.corrcoef(flat)
    others = correlation[~torch.eye(len(flat), dtype=torch.bool)]
    assert others.abs().mean() < 0.1
    assert levels.std(axis=(1, 2)).min() > 20, "no image is plain"
    assert levels.mean(axis=(0, 1, 2)) == pytest.approx(128, abs=20)


def test_an_image_depends_on_seed_split_and_index_alone():
    first, label = draw("train", 13)
    again, _ = draw("train", 13)
    assert first.shape == (SIDE, SIDE, 3) and first.dtype == np.uint8
    assert label == 13 % NUM_CLASSES
    assert np.array_equal(first, again)
    for other in (
        draw("test", 13),
        draw("train", 13 + NUM_CLASSES),
        draw("train", 13, seed=1),
    ):
        assert other[1] == label
        assert not np.array_equal(first, other[0])


def test_build_writes_class_folders_that_decode_to_the_drawn_pixels(tmp_path):
    calls = []
    folder = build(
        tmp_path / "a" / "set",
        num_train=30,
        num_test=20,
        progress=lambda done, total: calls.append((done, total)),
    )
    names = sorted(path.name for path in (folder / "train").iterdir())
    assert tuple(names) == EMBEDDED_CLASSES
    assert len(list(folder.glob("train/*/*.png"))) == 30
    assert len(list(folder.glob("test/*/*.png"))) == 20
    levels, label = draw("train", 17)
    with Image.open(folder / "train" / EMBEDDED_CLASSES[label] / "00017.png") as image:
        assert np.array_equal(np.asarray(image), levels)
    assert calls[-1] == (50, 50)
    assert [path.name for path in folder.parent.iterdir()] == ["set"]


def build_small(folder, **settings):
    return build(folder, **(dict(num_train=20, num_test=10) | settings))


def inode(folder):
    return next((folder / "train").glob("*/*.png")).stat().st_ino


def test_a_finished_set_is_reused(tmp_path):
    folder = build_small(tmp_path / "set")
    before = inode(folder)
    assert inode(build_small(tmp_path / "set")) == before


@pytest.mark.parametrize("damage", ["image lost", "image empty", "old version"])
def test_a_damaged_or_old_set_is_rebuilt(tmp_path, damage):
    folder = build_small(tmp_path / "set")
    victim = next((folder / "test").glob("*/*.png"))
    content = victim.read_bytes()
    if damage == "image lost":
        victim.unlink()
    elif damage == "image empty":
        victim.write_bytes(b"")
    else:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["version"] -= 1
        (folder / "manifest.json").write_text(json.dumps(manifest))
    before = inode(folder)
    build_small(folder)
    assert victim.read_bytes() == content
    assert inode(folder) != before


def test_a_broken_off_build_leaves_nothing_and_the_next_one_finishes(
    tmp_path, monkeypatch
):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_small(tmp_path / "set", num_train=200, progress=stop)
    assert list(tmp_path.iterdir()) == []
    assert len(list(build_small(tmp_path / "set").glob("train/*/*.png"))) == 20


def test_a_set_with_other_settings_is_not_overwritten(tmp_path):
    folder = build_small(tmp_path / "set")
    with pytest.raises(DataError, match="seed 0 not 1"):
        build_small(folder, seed=1)
    with pytest.raises(DataError, match="train 20 not 40"):
        build_small(folder, num_train=40)


def test_what_is_not_ours_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="is no embedded data set"):
        build_small(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "set").mkdir()
    assert (build_small(tmp_path / "set") / "manifest.json").is_file()


def test_another_process_may_finish_first(tmp_path, monkeypatch):
    ready = build_small(tmp_path / "ready")
    write_all = embedded._write_all

    def write_slowly(scratch, wanted, progress):
        write_all(scratch, wanted, progress)
        shutil.copytree(ready, tmp_path / "set")

    monkeypatch.setattr(embedded, "_write_all", write_slowly)
    folder = build_small(tmp_path / "set")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ready", "set"]
    assert len(list(folder.glob("train/*/*.png"))) == 20


def test_too_few_images_for_the_classes(tmp_path):
    with pytest.raises(DataError, match="num_test is 4; wanted at least 5"):
        build_small(tmp_path / "set", num_test=4)
