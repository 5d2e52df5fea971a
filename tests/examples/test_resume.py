"""A run that was broken off goes on as if it had not been, or not at all."""

import pytest
import torch
from example_programs import same, toy

pytestmark = pytest.mark.filterwarnings("ignore:::datasets")
STREAM = ("--stream", "--steps", "3", "--buffer", "16")


@pytest.fixture
def break_off(example, monkeypatch):
    """Runs an example up to its first checkpoint."""
    parts = example("parts")

    def run(module, options):
        save = parts.save

        def save_and_stop(*args):
            save(*args)
            raise KeyboardInterrupt

        monkeypatch.setattr(parts, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            module.main(options)
        monkeypatch.setattr(parts, "save", save)

    monkeypatch.setattr(parts, "knn_accuracy", lambda *_: None)
    monkeypatch.setattr(parts, "knn", lambda *_: None)
    return run


def test_plain_goes_on_where_it_was_broken_off(example, data, tmp_path, break_off):
    module, parts = example("plain_pytorch"), example("parts")
    module.main(toy(data, tmp_path / "whole.pt"))
    break_off(module, toy(data, tmp_path / "half.pt"))
    half = torch.load(tmp_path / "half.pt")
    torch.manual_seed(0)
    start = parts.Net(*parts.make_trunk("small"), 10).prototypes.heads[0].weight
    # The paper freezes them for an epoch.
    assert half["epoch"] == 1
    assert torch.equal(half["net"]["prototypes.heads.0.weight"], start)
    module.main(toy(data, tmp_path / "half.pt", "--resume"))
    whole = torch.load(tmp_path / "whole.pt")
    assert same(torch.load(tmp_path / "half.pt"), whole)
    assert not torch.equal(whole["net"]["prototypes.heads.0.weight"], start)


# Workers of a stream that is not read to its end take 5 s to be gone.
@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_a_stream_goes_on_where_it_was_broken_off(
    workers, example, data, tmp_path, break_off
):
    """Two passes of 5 steps, broken off within the first and within an epoch."""
    module = example("hugging_face_data")
    options = (*STREAM, "--workers", workers, "--epochs", "3")
    module.main(toy(data, tmp_path / "whole.pt", *options))
    break_off(module, toy(data, tmp_path / "half.pt", *options))
    assert torch.load(tmp_path / "half.pt")["epoch"] == 1
    module.main(toy(data, tmp_path / "half.pt", *options, "--resume"))
    assert same(torch.load(tmp_path / "half.pt"), torch.load(tmp_path / "whole.pt"))


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (("--epochs", "4"), "--epochs 2, now 4"),
        (("--batch", "16"), "--batch 8, now 16; steps 5, now 2"),
        (
            ("--prototypes", "12", "--seed", "1"),
            "--prototypes 10, now 12; --seed 0, now",
        ),
    ],
)
def test_other_settings_end_with_a_sentence(
    other, told, example, data, tmp_path, break_off
):
    module, file = example("plain_pytorch"), tmp_path / "a.pt"
    break_off(module, toy(data, file))
    with pytest.raises(SystemExit, match=rf"a\.pt was begun .* \({told}.*Keep them"):
        module.main(toy(data, file, "--resume", *other))


def test_what_does_not_shape_the_run_may_be_another(
    example, data, tmp_path, break_off, capsys
):
    module, file = example("plain_pytorch"), tmp_path / "a.pt"
    break_off(module, toy(data, file))
    (tmp_path / "moved").symlink_to(data)
    moved = file.rename(tmp_path / "b.pt")
    module.main(toy(tmp_path / "moved", moved, "--resume", "--workers", "1"))
    assert torch.load(moved)["epoch"] == 2
    assert "epoch 2: loss" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no checkpoint", {"net": {}}, [1]])
def test_a_file_of_something_else(content, example, data, tmp_path):
    file = tmp_path / "a.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(SystemExit, match="no checkpoint from which"):
        example("plain_pytorch").main(toy(data, file, "--resume"))
