"""What is known of a benchmark data set; ``benchmark_facts`` is the table of them.

``class_splits`` reads those that are files of classes, ``array_images`` those that are
arrays, ``label_lists`` those that are lists of paths and labels (VOC's reader is the
host's own); ``class_folders`` and ``label_lists`` write what the host reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FOLDER, LISTS = "image folder", "lists"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file of a data set on its authors' server.

    Attributes:
        url: where it lies.
        md5: of the file, in hexadecimal; None where no sum is published.
    """

    url: str
    md5: str | None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]

    @property
    def mark(self) -> str:
        """Name of the empty file that says it is fetched and unpacked."""
        return f".{self.name}.done"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One data set.

    Attributes:
        name: as `vissl-swav data` and `vissl-swav table --data` call it.
        title: its authors' name for it.
        page: its home page.
        terms: licence or registration, where a source was found.
        num_classes: classes.
        num_images: of each split that is written, by the split's name.
        download: size of what is downloaded, as the source states it.
        layout: what is written: ``FOLDER`` or ``LISTS``.
        wants: what the user's folder must hold.
        split: where the two splits come from.
        host_configs: VISSL's configs that use it.
        paper: the paper's table or section.
        source: where the figures come from.
        archives: what ``--download`` fetches.
    """

    name: str
    title: str
    page: str
    terms: str
    num_classes: int
    num_images: dict[str, int]
    download: str
    layout: str
    wants: str
    split: str
    host_configs: tuple[str, ...]
    paper: str
    source: str
    archives: tuple[Archive, ...] = field(default=())
