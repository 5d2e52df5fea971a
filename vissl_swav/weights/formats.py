"""What a file is, by its first bytes: the ending of its name proves nothing."""

import zipfile
from pathlib import Path

from vissl_swav.weights.errors import WeightsError

SAFETENSORS, TORCH = "safetensors", "torch"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
# Of a safetensors header, in bytes: the format's own limit.
_LARGEST_HEADER = 100_000_000
_LOOKED_AT = 256
_SHOWN = 40
# An archive of torch's holds data.pkl; a program also its code and its constants.
_OF_PROGRAM = "constants.pkl"


def kind_of(path: Path) -> str:
    """`SAFETENSORS`, or `TORCH` for a zip archive or pickle, as `torch.save` writes.

    Raises:
        WeightsError: another kind of file; the message says which, and how to go on.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        start = file.read(_LOOKED_AT)
    if _is_safetensors(start, path.stat().st_size):
        return SAFETENSORS
    if start.startswith(_ZIP):
        if _is_program(path):
            raise WeightsError(
                f"{path} is a TorchScript program, as `export --to torchscript` writes "
                "it; wanted tensors. Take the checkpoint that it was made from, or if "
                f'you trust it: torch.save(torch.jit.load("{path}").state_dict(), NEW).'
            )
        return TORCH
    if start.startswith(_PICKLE):
        return TORCH
    raise WeightsError(
        f"{path} {_other(start)}; wanted weights as torch.save or safetensors write "
        "them: checkpoint.torch of a run's folder, a .pth or .safetensors file."
    )


def _is_safetensors(start: bytes, size: int) -> bool:
    """Eight bytes with the length of the header, then JSON."""
    length = int.from_bytes(start[:8], "little")
    return start[8:9] == b"{" and length <= min(_LARGEST_HEADER, size - 8)


def _is_program(path: Path) -> bool:
    # What a damaged archive leads to is said by the reader that follows.
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:
        return False
    return any(name.rpartition("/")[2] == _OF_PROGRAM for name in names)


def _other(start: bytes) -> str:
    """Of a file that holds no weights, in words."""
    if not start:
        return "is empty: the download or copy was cut short, or the disk was full"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file (`git lfs pull` fetches it)"
    # A character of several bytes may be cut at the end.
    text = start.decode("utf-8", errors="replace").rstrip("\ufffd")
    if "\ufffd" not in text and (text.isprintable() or "\n" in text):
        shown = " ".join(text.split())[:_SHOWN]
        return f"is a text file, a page or a config perhaps (it begins {shown!r})"
    return f"begins with the bytes {start[:8]!r} of another kind of file"
