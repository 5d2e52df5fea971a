"""The arguments of every example, checked before anything runs."""

import math
from argparse import (
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def number(
    kind: type[int] | type[float], least: float, most: float = math.inf
) -> Callable[[str], Any]:
    """A type for argparse: an int or float from `least` to `most`."""

    def read(text: str) -> Any:
        value = kind(text)
        if least <= value <= most and math.isfinite(value):
            return value
        range_ = f"at least {least}" if most == math.inf else f"{least} to {most}"
        raise ArgumentTypeError(f"{text} is out of range; wanted {range_}")

    read.__name__ = kind.__name__  # argparse names it where the text is no number.
    return read


class Parser(ArgumentParser):
    """The arguments of every example; `defaults` are those of one."""

    def __init__(self, doc: str | None, *, resumes: bool = True, **defaults: Any):
        super().__init__(description=doc, formatter_class=RawDescriptionHelpFormatter)
        add, natural, positive = self.add_argument, number(int, 0), number(int, 1)
        add("--data", help="folder with train/<class>/ and, for k-NN, test/<class>/; "
            "without one a small data set is drawn to runs/embedded")  # fmt: skip
        add("--trunk", default="small", help="small, or a ResNet of torchvision")
        add("--sizes", type=positive, nargs="+", default=[24, 16], metavar="PIXELS",
            help="of crops, one size or two")  # fmt: skip
        add("--counts", type=positive, nargs="+", default=[2, 2], metavar="CROPS",
            help="crops of each size")  # fmt: skip
        add("--cut", type=number(float, 0.01, 1), default=0.3,
            help="least share of the area, large crops")  # fmt: skip
        # 1.25 makes the colour step certain, whose probability is 0.8 in the paper.
        add("--strength", type=number(float, 0, 1.25),
            help="of colour steps and blur, 1 is the paper's")  # fmt: skip
        add("--batch", type=positive, default=32, help="images a step and process")
        add("--epochs", type=natural, default=5)
        add("--lr", type=number(float, 0), default=1e-3)
        add("--prototypes", type=number(int, 2), default=100)
        add("--queue", type=natural, default=480,
            help="rows over all processes; 0: none")  # fmt: skip
        add("--workers", type=natural, default=2, help="processes that load images")
        add("--seed", type=number(int, 0, 2**32 - 1), default=0)
        add("--out", default="runs/example.pt", help="checkpoint")
        if resumes:
            add("--resume", action="store_true", help="go on from --out")
        self.set_defaults(resume=False, **defaults)

    def read(self, arguments: Sequence[str] | None = None) -> Namespace:
        """The options, or the end of the program with what does not go together."""
        options = self.parse_args(arguments)
        sizes, counts, out = options.sizes, options.counts, Path(options.out)
        if len(sizes) != len(counts) or len(sizes) > 2:
            self.error(
                f"--sizes {sizes} and --counts {counts} do not go together; wanted one "
                "size or two, and a count for each"
            )
        if sum(counts) < 2:
            self.error("--counts 1 is too few: a loss compares two crops of an image")
        if out.is_dir():
            self.error(f"--out {out} is a folder; wanted a file, as {out / 'last.pt'}")
        try:  # Now, not after the first epoch.
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.error(f"--out {out} cannot be written: {error}")
        if options.resume and not out.is_file():
            self.error(
                f"--resume needs a checkpoint, but there is no {out}; name it with "
                "--out, or start without --resume"
            )
        return options
