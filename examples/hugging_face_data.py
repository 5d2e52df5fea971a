"""SwAV on a Hugging Face data set: from the hub, from a folder, or as a stream.

    python examples/hugging_face_data.py --data FOLDER
    python examples/hugging_face_data.py --data uoft-cs/cifar10 --image img
    python examples/hugging_face_data.py --data FOLDER --stream --steps 500

All but the data is `plain_pytorch.py`, torchrun too. A stream is shuffled in a buffer.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import parts
import plain_pytorch
from command_line import Parser, number
from datasets import load_dataset
from datasets.distributed import split_dataset_by_node
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from vissl_swav import MultiCrop, collective


def load(options: argparse.Namespace) -> Any:
    """The splits by name, or the end of the program with what is wrong."""
    folder = {"path": "imagefolder", "data_dir": options.data}
    place = folder if Path(options.data).exists() else {"path": options.data}
    try:
        splits = load_dataset(**place, streaming=options.stream)
    except (OSError, ValueError) as error:
        sys.exit(f"No data set from {options.data}: {error}")
    if options.image not in (columns := splits["train"].column_names):
        sys.exit(f"No column {options.image}; name one of {columns} with --image.")
    return splits


def make_crops(rows: Any, column: str, multi_crop: MultiCrop) -> tuple[list[Tensor]]:
    """V crops (B, 3, S, S)."""
    return (default_collate([multi_crop(row[column]) for row in rows]),)


def make_views(rows: Any, options: argparse.Namespace) -> list[Tensor]:
    """Centres, levels (B, 3, S, S), and labels (B,)."""
    view = parts.central_view(max(options.sizes))
    levels = [view(row[options.image].convert("RGB")) for row in rows]
    return [default_collate(levels), default_collate([r[options.label] for r in rows])]


class Stream:
    """Batches of a stream, begun anew where it ends; an epoch is `steps` of them."""

    def __init__(self, stream: Any, options: argparse.Namespace, collate: Any):
        stream = stream.shuffle(seed=options.seed, buffer_size=options.buffer)
        mine = split_dataset_by_node(stream, collective().rank, collective().world_size)
        workers = min(options.workers, mine.num_shards)  # Each reads other shards.
        settings = {"num_workers": workers, "collate_fn": collate, "drop_last": True}
        self.loader, self.stream = DataLoader(mine, options.batch, **settings), mine
        self.options, self.sampler = options, self
        self.epoch, self.batches = 0, self.passes()

    def passes(self) -> Iterator[Any]:
        """Batches without end, in another order in each pass."""
        for turn in count():
            self.stream.set_epoch(turn)
            batch = None
            for batch in self.loader:
                yield batch
            if batch is None:
                sys.exit("The stream holds no whole batch; make --batch smaller.")

    def set_epoch(self, epoch: int) -> None:
        """Goes on where the epoch before ended; a resumed run reads up to there."""
        for past in range(self.epoch, epoch):
            parts.seed_epoch(self, self.options.seed, past)
            sum(1 for _ in self)
        self.epoch = epoch + 1

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.options.steps

    def __iter__(self) -> Iterator[Any]:
        """The batches of an epoch."""
        return islice(self.batches, len(self))


def main(arguments: Sequence[str] | None = None) -> float | None:
    """Returns the k-NN accuracy in %, where there are labelled test images."""
    parser = Parser(__doc__, out="runs/hugging_face.pt")
    add = parser.add_argument
    add("--image", default="image", help="column of the images")
    add("--label", default="label", help="column of the labels, for the k-NN figure")
    add("--stream", action="store_true", help="do not download or index it first")
    add("--steps", type=number(int, 1), default=500, help="an epoch of a stream")
    add("--buffer", type=number(int, 1), default=10000, help="images to shuffle among")
    options = parser.read(arguments)
    device = parts.start(options.seed)
    parts.find_folders(options)  # Draws the embedded data set where none is named.
    splits = load(options)
    of_crops = {"column": options.image, "multi_crop": parts.multi_crop(options)}
    open_loader: Any = Stream if options.stream else parts.make_loader
    loader = open_loader(splits["train"], options, partial(make_crops, **of_crops))
    net = parts.Net(*parts.make_trunk(options.trunk), options.prototypes).to(device)
    plain_pytorch.train(options, net, loader)
    test = splits.get("test", splits.get("validation"))
    if test is None or options.label not in test.column_names:
        return None
    view = partial(make_views, options=options)
    batches = [DataLoader(of, 256, collate_fn=view) for of in (splits["train"], test)]
    return parts.knn(net.trunk, *batches)


if __name__ == "__main__":
    main()
