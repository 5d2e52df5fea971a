"""`vissl-swav gallery`: a page and a picture of what the prototypes stand for."""

import argparse
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vissl_swav.data.errors import DataError
from vissl_swav.suite import clusters
from vissl_swav.suite.assign import Assigned, assign_images, guarded
from vissl_swav.suite.gallery_page import Row, Section, contact_sheet, page
from vissl_swav.suite.image_views import centre_box
from vissl_swav.suite.terminal import say
from vissl_swav.weights.whole_file import whole_file

THUMBNAIL = 72
PAGE, SUMMARY = "index.html", "clusters.json"


@dataclass(frozen=True)
class HeadSummary:
    """One head's clusters in numbers, as `clusters.json` holds them.

    Attributes:
        head: number of the head.
        num_prototypes: K.
        sizes: images of each cluster, by number.
        empty: numbers of the clusters without an image.
        duplicates: [number, earlier number, cosine] of prototypes that point where an
            earlier one does.
        distinct: K minus the duplicates.
        balance: entropy of the sizes over ln K.
        nmi: normalised mutual information with the labels; None without labels.
        purity: share of images with the commonest label of their cluster, or None.
    """

    head: int
    num_prototypes: int
    sizes: list[int]
    empty: list[int]
    duplicates: list[tuple[int, int, float]]
    distinct: int
    balance: float
    nmi: float | None
    purity: float | None


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code (2 for bad input)."""
    return guarded("gallery", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    out = Path(options.out).expanduser()
    # Before the work, not after it.
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; wanted a folder to write the gallery to.")
    found = assign_images(options)
    out.mkdir(parents=True, exist_ok=True)
    labels = _labels(found)
    sections = []
    for number, head in enumerate(found.heads):
        summary = summarize(number, head, found.model.prototypes[number], labels)
        shown = _rows(found, head, summary, labels, options)
        sections.append(Section(summary, shown))
        _write(out / f"head{number}.png", contact_sheet(shown))
    title = f"{found.model.run.loss}: {len(found.embedded.indices)} images"
    text = page(title, _facts(found, options), sections)
    _write(out / PAGE, text.encode("utf-8", "replace"))
    summaries = [asdict(section.summary) for section in sections]
    _write(out / SUMMARY, json.dumps(summaries, indent=1).encode())
    for section in sections:
        say(in_words(section.summary))
    say(f"gallery: {out / PAGE}")


def summarize(
    number: int, head: clusters.Assignment, prototypes: Tensor, labels: Tensor | None
) -> HeadSummary:
    """One head in numbers.

    Args:
        number: of the head.
        head: its clusters of N images.
        prototypes: C (K, D).
        labels: (N,) or None.
    """
    counts = clusters.sizes(head.cluster, len(prototypes))
    doubles = clusters.duplicates(prototypes)
    nmi = purity = None
    if labels is not None:
        nmi = clusters.normalized_mutual_information(head.cluster, labels)
        purity = clusters.purity(head.cluster, labels)
    return HeadSummary(
        head=number,
        num_prototypes=len(prototypes),
        sizes=counts.tolist(),
        empty=torch.nonzero(counts == 0).flatten().tolist(),
        duplicates=doubles,
        distinct=len(prototypes) - len(doubles),
        balance=clusters.balance(counts),
        nmi=nmi,
        purity=purity,
    )


def in_words(summary: HeadSummary) -> str:
    """The numbers in a line."""
    counts = sorted(size for size in summary.sizes if size)
    text = (
        f"head {summary.head}: {len(counts)} of {summary.num_prototypes} prototypes "
        f"used, of {counts[0]} to {counts[-1]} images, median "
        f"{counts[len(counts) // 2]}; {summary.distinct} distinct (cosine < "
        f"{clusters.DUPLICATE_COSINE}); balance {summary.balance:.3f}"
    )
    if summary.nmi is not None and summary.purity is not None:
        text += f"; NMI {summary.nmi:.3f}, purity {summary.purity:.3f}"
    return text


def _labels(found: Assigned) -> Tensor | None:
    """Of the assigned images; a single class is none."""
    labels = found.images.labels
    if labels is None or len(set(labels)) < 2:
        return None
    return torch.tensor(labels, dtype=torch.long)[found.embedded.indices]


def _rows(
    found: Assigned,
    head: clusters.Assignment,
    summary: HeadSummary,
    labels: Tensor | None,
    options: argparse.Namespace,
) -> list[Row]:
    order = np.argsort(-np.array(summary.sizes), kind="stable")[: options.clusters]
    rows = []
    for number in order.tolist():
        if not summary.sizes[number]:
            break
        places = clusters.top_images(head, number, options.top)
        mostly = ""
        if labels is not None:
            members = labels[head.cluster == number]
            mostly = clusters.common_label(members, found.images.class_names)
        pictures = [_thumbnail(found, place) for place in places]
        names = [_shown_name(found, place) for place in places]
        scores = [float(head.score[place]) for place in places]
        rows.append(Row(number, summary.sizes[number], mostly, pictures, names, scores))
    return rows


def _thumbnail(found: Assigned, place: int) -> Image.Image:
    """What the model saw, small."""
    image = found.images.read(int(found.embedded.indices[place]))
    box = centre_box(image.size)
    cut = image.decode_pil().crop(
        (box.left, box.top, box.left + box.width, box.top + box.height)
    )
    return cut.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)


def _shown_name(found: Assigned, place: int) -> str:
    name = found.images.name(int(found.embedded.indices[place]))
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _facts(found: Assigned, options: argparse.Namespace) -> list[tuple[str, str]]:
    run = found.model.run
    return [
        ("images", str(options.images)),
        ("checkpoint", str(found.model.file)),
        ("loss", run.loss),
        ("mode", options.mode),
        ("view", f"centre, {run.crop_size} x {run.crop_size} pixels, eval mode"),
        ("left out, unreadable", str(len(found.embedded.unreadable))),
    ]


def _write(path: Path, data: bytes) -> None:
    with whole_file(path) as scratch:
        scratch.write_bytes(data)
