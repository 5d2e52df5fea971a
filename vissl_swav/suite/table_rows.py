"""The rows of a transfer table: checkpoints, and trunks that are trained for it."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vissl_swav.host.errors import StartError
from vissl_swav.host.settings.saved_trunk import SavedTrunk, saved_trunk
from vissl_swav.suite.checkpoint_model import CONFIG_NAME, find_checkpoint, read_tree
from vissl_swav.suite.foreign_rows import foreign_trunk, in_hosts_layout
from vissl_swav.suite.recipe import Benchmark

_NAMED = re.compile(r"(?P<name>[^=/\\]+)=(?P<path>.+)")
_NO_FILE_NAME = re.compile(r"[^\w.+-]+")
RANDOM = "random trunk"


@dataclass(frozen=True)
class Row:
    """A trunk to evaluate.

    Attributes:
        name: for people.
        saved: what the trunk is, and on what images it was trained; None for a row
            that is a way to pretrain.
        weights: the checkpoint; None for random weights, or until `training` is done.
        identity: of the weights: a digest of the file, or what makes them.
        training: the training with labels that makes the weights, of the recipe.
        overrides: of every run of the row.
        is_foreign: whether `weights` must be written in the host's layout first.
    """

    name: str
    saved: SavedTrunk | None
    weights: Path | None
    identity: str
    training: Benchmark | None = None
    overrides: tuple[str, ...] = ()
    is_foreign: bool = False

    @property
    def trunk(self) -> SavedTrunk:
        """`saved`, of a row that is a trunk."""
        assert self.saved is not None, f"{self.name} is no trunk"
        return self.saved

    @property
    def folder(self) -> str:
        """A name for files: of the row's letters, and unique by a digest."""
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:4]
        plain = _NO_FILE_NAME.sub("-", self.name).strip("-.")[:40]
        return plain if plain == self.name else f"{plain or 'row'}-{digest}"


def checkpoint_rows(given: Sequence[str]) -> list[Row]:
    """A row for each `PATH` or `NAME=PATH` of a command line.

    A file with no `train_config.yaml` beside it may be one of others (`foreign_rows`).
    A row without a name is called after its method; two of one method after their
    folders, too.

    Raises:
        StartError: no checkpoint there, no config beside it, or two rows of one name.
    """
    found = [_split(text) for text in given]
    rows = [(name, *_checkpoint(path)) for name, path in found]
    methods = [trunk.method for name, trunk, _ in rows if name is None]
    named = []
    for name, trunk, file in rows:
        if name is None:
            lone = methods.count(trunk.method) == 1
            name = trunk.method if lone else f"{trunk.method} {_place(file)}"
        foreign = not (file.parent / CONFIG_NAME).exists()
        named.append(Row(name, trunk, file, digest_of(file), is_foreign=foreign))
    names = [row.name for row in named]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise StartError(
            f"two rows are called {twice}; name them: NAME=PATH OTHER=PATH."
        )
    return named


def ready(row: Row, out: Path) -> Row:
    """The row with weights that the host loads; others' are written below `out`."""
    if not row.is_foreign or row.weights is None:
        return row
    target = out / "weights" / f"{row.identity[:16]}.torch"
    return replace(row, weights=in_hosts_layout(row.weights, target), is_foreign=False)


def other_rows(
    rows: Mapping[str, Benchmark | None], checkpoints: Sequence[Row], seed: int
) -> list[Row]:
    """The recipe's own rows, on the trunk of the first checkpoint.

    Raises:
        StartError: a checkpoint has the name of one of them.
    """
    for row in checkpoints:
        if row.name in rows:
            raise StartError(
                f"a checkpoint's row is called {row.name}, as a row of the recipe is; "
                "give it another name: NAME=PATH, or leave the recipe's rows out "
                "(--only-checkpoints)."
            )
    trunk = checkpoints[0].trunk
    return [
        Row(name, trunk, None, f"{name}: random weights of seed {seed}", training)
        for name, training in rows.items()
    ]


def setting_rows(settings: Mapping[str, tuple[str, ...]]) -> list[Row]:
    """A row for each way to pretrain."""
    return [
        Row(name, None, None, "pretraining", overrides=overrides)
        for name, overrides in settings.items()
    ]


def _split(text: str) -> tuple[str | None, Path]:
    """`NAME=PATH`, or a path; a path that exists is one, whatever is in it."""
    match = None if Path(text).exists() else _NAMED.fullmatch(text)
    if match is None:
        return None, Path(text)
    return match["name"].strip(), Path(match["path"])


def _checkpoint(path: Path) -> tuple[SavedTrunk, Path]:
    file = find_checkpoint(path).resolve()
    config = file.parent / CONFIG_NAME
    if not config.exists() and not path.is_dir():
        return foreign_trunk(file), file
    try:
        return saved_trunk(read_tree(config)), file
    except StartError as error:
        text = str(error)
        place = "" if str(config) in text else f"{config}: "
        raise StartError(f"{place}{text}") from error


def _place(file: Path) -> str:
    """The folder that tells a run from others; `pretrain` and the like do not."""
    parents = [parent.name for parent in file.parents if parent.name]
    telling = [name for name in parents if name not in ("pretrain", "checkpoints")]
    return (telling or parents or [file.name])[0]


def digest_of(file: Path) -> str:
    """SHA-256 of what a file holds."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(2**20):
            digest.update(block)
    return digest.hexdigest()
