"""`data=PATH` becomes the host's own keys; awkward paths arrive whole."""

import numpy as np
import pytest
from image_files import encode

from vissl_swav.host.data_override import expand_data_override
from vissl_swav.host.errors import StartError


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(np.zeros((4, 4, 3), np.uint8)))
    return folder


def expand(*overrides, labelled=False, test=False):
    return expand_data_override(overrides, labelled=labelled, test=test)


def values_of(overrides):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {override.key_or_group: override.value() for override in parsed}


def refusal(*overrides, **options):
    with pytest.raises(StartError) as caught:
        expand(*overrides, **options)
    return str(caught.value)


def test_without_data_nothing_changes():
    given = ["config=pretrain/swav/base", "config.DATA.TRAIN.DATA_PATHS=[a]"]
    assert expand(*given) == given
    assert expand("database=x") == ["database=x"]


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "my photos (1)",
        "a,b=c",
        "x[1]",
        "it's {x:1}",
        " ends ",
        "$5 \\ #1",
        "Zoë",
    ],
)
def test_a_path_arrives_whole(host, tmp_path, name):
    folder = write(tmp_path / name, "cat/a.png")
    expanded = expand("config=pretrain/swav/quickstart", f"data={folder}")
    assert expanded[-1] == "config=pretrain/swav/quickstart"
    assert values_of(expanded[:-1]) == {
        "config.DATA.TRAIN.DATA_SOURCES": ["images"],
        "config.DATA.TRAIN.DATASET_NAMES": ["images"],
        "config.DATA.TRAIN.DATA_PATHS": [str(folder)],
    }


def test_it_arrives_in_the_hosts_config(host, tmp_path):
    from vissl_swav.host import launch

    folder = write(tmp_path / "my photos, a=b", "cat/a.png")
    _, config = launch.compose(
        expand("config=pretrain/swav/quickstart", f"data={folder}")
    )
    assert config.DATA.TRAIN.DATA_PATHS == [str(folder)]
    assert config.DATA.TRAIN.DATA_SOURCES == ["images"]


def test_splits(tmp_path):
    folder = write(tmp_path, "train/cat/a.png", "val/cat/b.png")
    train, val = f"['{folder / 'train'}']", f"['{folder / 'val'}']"
    assert f"config.DATA.TRAIN.DATA_PATHS={train}" in expand(f"data={folder}")
    assert not any("TEST" in override for override in expand(f"data={folder}"))
    both = expand(f"data={folder}", test=True, labelled=True)
    assert both == [
        "config.DATA.TRAIN.DATA_SOURCES=[images]",
        "config.DATA.TRAIN.DATASET_NAMES=[images]",
        f"config.DATA.TRAIN.DATA_PATHS={train}",
        "config.DATA.TRAIN.LABEL_SOURCES=[torchvision_dataset]",
        "config.DATA.TEST.DATA_SOURCES=[images]",
        "config.DATA.TEST.DATASET_NAMES=[images]",
        f"config.DATA.TEST.DATA_PATHS={val}",
        "config.DATA.TEST.LABEL_SOURCES=[torchvision_dataset]",
    ]
    write(tmp_path, "test/cat/c.png")
    assert f"config.DATA.TEST.DATA_PATHS=['{folder / 'test'}']" in expand(
        f"data={folder}", test=True
    )


def test_relative_paths_and_the_home_folder(tmp_path, monkeypatch):
    folder = write(tmp_path / "photos", "a.png")
    wanted = f"config.DATA.TRAIN.DATA_PATHS=['{folder}']"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("photos", "./photos/", "photos/../photos", "~/photos", folder):
        assert wanted in expand(f"data={path}")


def test_lists_and_shard_patterns_pass(tmp_path):
    write(tmp_path, "a.png")
    (tmp_path / "list.txt").write_text("a.png 0\n")
    expanded = expand(f"data={tmp_path / 'list.txt'}", labelled=True)
    assert f"config.DATA.TRAIN.DATA_PATHS=['{tmp_path / 'list.txt'}']" in expanded
    pattern = "/data/part-{000..127}.tar"
    assert f"config.DATA.TRAIN.DATA_PATHS=['{pattern}']" in expand(f"data={pattern}")


@pytest.mark.parametrize("mark", ["", "+", "++"])
def test_what_the_user_names_stands_later(host, tmp_path, mark):
    from vissl_swav.host import launch

    write(tmp_path, "train/cat/a.png")
    theirs = f"{mark}config.DATA.TRAIN.DATA_PATHS=['/other']"
    config = "config=pretrain/swav/quickstart"
    expanded = expand(theirs, config, f"data={tmp_path}")
    assert expanded[-2:] == [theirs, config]
    if mark != "+":  # hydra refuses to add what is there.
        _, composed = launch.compose(expanded)
        assert composed.DATA.TRAIN.DATA_PATHS == ["/other"]


def test_test_data_may_be_named_apart(tmp_path):
    folder = write(tmp_path, "cat/a.png")
    said = refusal(f"data={folder}", test=True)
    assert "tests too, and there is no test/ or val/" in said
    theirs = "config.DATA.TEST.DATA_PATHS=[/other]"
    expanded = expand(f"data={folder}", theirs, test=True)
    assert [o for o in expanded if "TEST" in o] == [theirs]


def test_errors_name_what_was_given(tmp_path):
    assert "data=a and data=b were given; wanted data= once" in refusal(
        "data=a", "data=b"
    )
    for empty in ("data=", "data= "):
        assert "data= is empty; wanted data=PATH" in refusal(empty)
    missing = tmp_path / "gone"
    assert refusal(f"data={missing}").startswith(f"data={missing}: there is no")
    (tmp_path / "${oops}").mkdir()
    assert "has ${ in it" in refusal(f"data={tmp_path}/${{oops}}")


def test_labels_are_asked_for_before_the_run(tmp_path):
    folder = write(tmp_path, "a.png", "more/b.png")
    assert expand(f"data={folder}")
    said = refusal(f"data={folder}", labelled=True)
    assert "this run needs labels" in said and "wanted class folders" in said
