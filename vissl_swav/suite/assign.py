"""`vissl-swav assign`: the cluster of each image under a trained model."""

import argparse
import contextlib
import csv
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vissl_swav.data.errors import DataError
from vissl_swav.data.image_list import ImageList, open_images
from vissl_swav.host.errors import StartError
from vissl_swav.suite import cluster_folders, clusters
from vissl_swav.suite.checkpoint_model import CheckpointModel, load_model
from vissl_swav.suite.image_views import CENTRE_SHARE, Embedded, embed
from vissl_swav.suite.terminal import counting_bars, say
from vissl_swav.train import INSTALL_LINE, have_host
from vissl_swav.weights.whole_file import whole_file

COLUMNS = ("path", "head", "cluster", "score", "margin")
_MAX_NAMED = 20


@dataclass(frozen=True)
class Assigned:
    """What both commands work on; heads in order."""

    images: ImageList
    model: CheckpointModel
    embedded: Embedded
    heads: list[clusters.Assignment]


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code (2 for bad input)."""
    return guarded("assign", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    out = None if options.out is None else Path(options.out)
    # Before the work, not after it.
    write = None if out is None else writer_of(out)
    found = assign_images(options)
    if write is None or out is None:
        with _standard_output() as stream:
            _write_rows(stream, found)
    else:
        write(out, found)
        say(f"{len(found.embedded.indices)} images: {out}")


def guarded(command: str, work: Any) -> int:
    """Runs `work`; what the user can mend ends as one message and exit code 2."""
    if not have_host():
        print(INSTALL_LINE, file=sys.stderr)
        return 2
    try:
        work()
    except (DataError, StartError, OSError) as error:
        say(f"vissl-swav {command}: {error}", "red")
        return 2
    return 0


def assign_images(options: argparse.Namespace) -> Assigned:
    """Embeds and assigns the images; makes the folders of `--symlink`.

    Args:
        options: of the command line (`cluster_arguments`).

    Raises:
        DataError: no images, or none that can be read.
        StartError: no model.
    """
    links = options.symlink and cluster_folders.check_free(
        Path(options.symlink), Path(options.images)
    )
    images = open_images(options.images)
    config = Path(options.config) if options.config else None
    model = load_model(Path(options.checkpoint), config=config, device=options.device)
    if not model.prototypes:
        raise StartError(
            f"{model.file} is of a run with the loss {model.run.loss}, which has no "
            "prototypes and so no clusters; its features: vissl_swav.predictor."
        )
    say(_what_is_done(model, options.mode, len(images)))
    with counting_bars() as progress:
        task = progress.add_task("images", total=len(images))
        embedded = embed(
            images,
            model,
            batch_size=options.batch_size,
            num_workers=options.workers,
            report=lambda done, _: progress.update(task, completed=done),
        )
    _tell_unreadable(embedded)
    if not len(embedded.indices):
        raise DataError(
            f"none of {len(images)} images of {options.images} can be read; look at "
            f"them: vissl-swav data-check {options.images} --all."
        )
    heads = [_assigned(embedded, C, model, options.mode) for C in model.prototypes]
    if links:
        labels = [head.cluster for head in heads]
        counts = [len(C) for C in model.prototypes]
        roots = cluster_folders.link_clusters(
            links, images, embedded.indices, labels, counts
        )
        say(f"image folder a head: {', '.join(map(str, roots))}")
    return Assigned(images, model, embedded, heads)


def _assigned(
    embedded: Embedded, prototypes: Any, model: CheckpointModel, mode: str
) -> clusters.Assignment:
    run = model.run
    images, count = len(embedded.indices), len(prototypes)
    if mode == "sinkhorn" and images < count:
        say(
            f"warning: {images} images over {count} prototypes: equal shares are less "
            "than one image each. Sinkhorn wants the whole set; take --mode argmax.",
            "yellow",
        )
    found = clusters.assign(
        embedded.features,
        prototypes,
        mode=mode,
        temperature=run.temperature,
        epsilon=run.epsilon,
    )
    if found.error is not None and found.error > 0.01:
        say(
            f"warning: the shares of the prototypes are still {found.error:.1%} off "
            "equal; the scores leave no better balance in 1000 iterations.",
            "yellow",
        )
    return found


def writer_of(out: Path) -> Any:
    """What writes a file of this kind.

    Raises:
        DataError: the ending is of no known kind, its folder is not there, or Parquet
            is wanted without pyarrow.
    """
    if not out.expanduser().parent.is_dir():
        raise DataError(f"there is no folder {out.parent} to write {out.name} into.")
    kind = out.suffix.lower()
    if kind == ".csv":
        return _write_csv
    if kind != ".parquet":
        raise DataError(f"{out} ends in {kind or 'nothing'}; wanted .csv or .parquet.")
    try:
        import pyarrow.parquet  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(
            f"{out} wants pyarrow, which is not installed ({error}): pip install "
            f"pyarrow, or write {out.with_suffix('.csv')}."
        ) from error
    return _write_parquet


def rows(found: Assigned) -> Iterator[tuple[str, int, int, float, float]]:
    """Values of `COLUMNS`: all images under head 0, then under head 1, and so on."""
    for number, head in enumerate(found.heads):
        columns = (head.cluster, head.score, head.margin)
        values = zip(*(column.tolist() for column in columns), strict=True)
        places = found.embedded.indices.tolist()
        for index, (cluster, score, margin) in zip(places, values, strict=True):
            yield found.images.name(index), number, cluster, score, margin


def _write_rows(stream: IO[str], found: Assigned) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for path, head, cluster, score, margin in rows(found):
        writer.writerow((path, head, cluster, f"{score:.6g}", f"{margin:.6g}"))


@contextlib.contextmanager
def _standard_output() -> Iterator[IO[str]]:
    # Names without valid UTF-8 come through as they are on the disk.
    text = io.StringIO(newline="")
    yield text
    data = text.getvalue()
    try:
        sys.stdout.write(data)
    except UnicodeEncodeError:
        sys.stdout.buffer.write(data.encode("utf-8", errors="surrogateescape"))
    sys.stdout.flush()


def _write_csv(out: Path, found: Assigned) -> None:
    with (
        whole_file(out.expanduser()) as scratch,
        scratch.open("w", encoding="utf-8", errors="surrogateescape", newline="") as f,
    ):
        _write_rows(f, found)


def _write_parquet(out: Path, found: Assigned) -> None:
    import pyarrow  # pyright: ignore[reportMissingImports]
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    columns = list(zip(*rows(found), strict=True))
    # Parquet's text is UTF-8: names that are not are shown with escapes.
    paths = [os.fsencode(p).decode("utf-8", "backslashreplace") for p in columns[0]]
    float32, int32 = pyarrow.float32(), pyarrow.int32()
    types = {"head": int32, "cluster": int32, "score": float32, "margin": float32}
    arrays = {
        name: pyarrow.array(values, types[name])
        for name, values in zip(COLUMNS[1:], columns[1:], strict=True)
    }
    with whole_file(out.expanduser()) as scratch:
        parquet.write_table(pyarrow.table({"path": paths, **arrays}), scratch)


def _what_is_done(model: CheckpointModel, mode: str, count: int) -> str:
    run = model.run
    size, share = run.crop_size, round(run.crop_size / CENTRE_SHARE)
    at = {
        "argmax": "argmax of cosines",
        "softmax": f"softmax at temperature {run.temperature:g}",
        "sinkhorn": f"Sinkhorn over all images, epsilon {run.epsilon:g}",
    }[mode]
    heads = " + ".join(map(str, run.num_prototypes))
    return (
        f"{run.loss}, {heads} prototypes, {model.file.name}, eval mode on "
        f"{model.device}; {at}; {count} images, shorter side to {share}, centre "
        f"{size} x {size}"
    )


def _tell_unreadable(embedded: Embedded) -> None:
    for name, reason in embedded.unreadable[:_MAX_NAMED]:
        say(f"left out: {name}: {reason}", "yellow")
    more = len(embedded.unreadable) - _MAX_NAMED
    if more > 0:
        say(f"left out: and {more} more (vissl-swav data-check names all)", "yellow")
