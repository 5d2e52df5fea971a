"""The command `vissl-swav`: what it prints and its exit codes."""

import pytest

from vissl_swav import __version__, cli


def test_version_names_what_it_runs_on(capsys):
    assert cli.main(["--version"]) == 0
    printed = capsys.readouterr().out
    assert f"vissl_swav {__version__} (" in printed
    for name in ("vissl", "torch", "torchvision", "faiss-cpu"):
        assert f"\n{name}" in printed


def test_no_command_prints_the_help(capsys):
    assert cli.main([]) == 2
    message = capsys.readouterr().err
    for command in ("train", "quickstart", "data-check"):
        assert command in message


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as refused:
        cli.main(["pretrain"])
    assert refused.value.code == 2
    assert "pretrain" in capsys.readouterr().err


def test_train_takes_the_overrides_as_they_are(monkeypatch):
    got = []
    monkeypatch.setattr(cli.train, "main", lambda given: got.append(given) or 0)
    assert cli.main(["train", "config=a", "--config-dir=b", "+c.d=1"]) == 0
    assert got == [["config=a", "--config-dir=b", "+c.d=1"]]


@pytest.mark.parametrize("command", [["train", "config=x"], ["quickstart"]])
def test_without_vissl_the_install_line_is_printed(
    command, capsys, monkeypatch, tmp_path
):
    from vissl_swav.suite import quickstart

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.train, "have_host", lambda: False)
    monkeypatch.setattr(quickstart, "have_host", lambda: False)
    assert cli.main(command) == 2
    assert "pip install --no-deps vissl==0.1.6" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
