"""Files that mean harm or are damaged, and what may come of opening them."""

import contextlib
import io
import os
import pickle
import random
import signal
import tarfile
import zipfile
import zlib
from dataclasses import dataclass, field

import numpy as np
import torch
import yaml
from PIL import Image

from vissl_swav.data.errors import DataError
from vissl_swav.host.errors import StartError

SECONDS = 20
# A bare word such as "truncated" tells a user nothing.
LEAST_WORDS = 4


class Harm:
    """Unpickled, it makes a folder: code of the pickle's choice has run."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@dataclass
class Result:
    """How it went: a value, or an error with a sentence."""

    value: object = None
    error: Exception | None = None


@dataclass
class Tally:
    """Results of many mutations."""

    values: list = field(default_factory=list)
    errors: list = field(default_factory=list)


class Hangs(Exception):
    """A case took longer than `SECONDS`."""


@contextlib.contextmanager
def time_limit(seconds=SECONDS):
    def stop(*_):
        raise Hangs(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def opened(
    load,
    *arguments,
    errors=(DataError, StartError, pickle.UnpicklingError),
    seconds=SECONDS,
):
    """Calls `load`; an error of another type, or without a sentence, goes through."""
    with time_limit(seconds):
        try:
            return Result(value=load(*arguments))
        except Hangs:
            raise
        except errors as error:
            assert len(str(error).split()) >= LEAST_WORDS, repr(error)
            return Result(error=error)


def harmful(mark, kind="torch"):
    """Bytes that run code where a reader lets a pickle do what it wants."""
    harm, stream = Harm(mark), io.BytesIO()
    if kind == "torch":
        torch.save({"classy_state_dict": harm}, stream)
    elif kind == "legacy":
        torch.save([harm], stream, _use_new_zipfile_serialization=False)
    elif kind == "pickle":
        pickle.dump(harm, stream)
    elif kind == "npy":
        np.save(stream, np.array([harm], dtype=object), allow_pickle=True)
    elif kind == "yaml":
        call = f"!!python/object/apply:os.mkdir ['{mark}']\n"
        stream.write(b"LOSS: " + call.encode())
    return stream.getvalue()


def bomb(size=1 << 28):
    """A small archive in torch's layout with a part that unpacks to `size` bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        content = torch.zeros(4)
        plain = io.BytesIO()
        torch.save(content, plain)
        with zipfile.ZipFile(plain) as good:
            for name in good.namelist():
                if not name.endswith("data/0"):
                    archive.writestr(name, good.read(name))
                    continue
                with archive.open(name, "w", force_zip64=True) as member:
                    for _ in range(size >> 20):
                        member.write(bytes(1 << 20))
    return stream.getvalue()


def image_bomb(side=60_000):
    """A PNG of a few megabytes that says it has `side` x `side` pixels."""

    def chunk(kind, data):
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    pixels = zlib.compress(bytes(1 << 22))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


def mutate(data, seed):
    """A seeded mutation: bytes flipped, cut, doubled, removed, or numbers blown up."""
    rng = random.Random(seed)
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not found:
            break
        place = rng.randrange(len(found))
        length = rng.choice((1, 4, 64, 1024))
        kind = rng.randrange(7)
        if kind == 0:
            found[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[place : place + length] = rng.randbytes(length)
        elif kind == 2:
            del found[place:]
        elif kind == 3:
            del found[place : place + length]
        elif kind == 4:
            found[place:place] = found[place : place + length]
        elif kind == 5:
            found[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f" * 4))
        else:
            found[place:place] = rng.choice((b"\n", b"\0", b"\r\n", b"[", b"{", b": "))
    return bytes(found)


def image_bytes(kind, seed=0, size=(24, 20)):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def shard(members):
    """A tar with members of the names and bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def trained_config(folder):
    return yaml.safe_load((folder / "train_config.yaml").read_text())


def files_below(folder):
    return sorted(os.path.join(a, n) for a, _, names in os.walk(folder) for n in names)
