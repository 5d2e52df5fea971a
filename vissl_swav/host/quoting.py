"""Any text as a value of hydra's override grammar."""

from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from vissl_swav.data.errors import DataError


def quoted(path: str | Path) -> str:
    """The path as a value in an override: in quotes that hydra's grammar takes off.

    Raises:
        DataError: the path cannot go through a config.
    """
    text = str(path)
    if "${" in text:
        # The host copies its config without resolving it: an escape would stay in.
        raise DataError(
            f"{text} has ${{ in it, with which a reference begins in VISSL's configs. "
            "Rename that folder, or name another."
        )
    return QuotedString(text, Quote.single).with_quotes()
