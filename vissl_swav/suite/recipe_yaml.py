"""YAML of a recipe: plain values only, and no key twice in a mapping."""

from pathlib import Path
from typing import Any

import yaml

from vissl_swav.host.errors import StartError

# Of a file that is no recipe: not parsed for minutes.
_MAX_BYTES = 2**20


def read_yaml(file: Path) -> Any:
    """What the file holds.

    Raises:
        StartError: it is too large, no YAML, or has a key twice.
    """
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise StartError(f"{file} is too large for a recipe.")
        return yaml.load(file.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        if isinstance(error, StartError):
            raise
        first = (str(error).strip().splitlines() or ["nested too deeply"])[0]
        raise StartError(f"{file} cannot be read as YAML: {first}.") from error


class _UniqueKeys(yaml.SafeLoader):
    """Refuses what plain YAML readers drop without a word: the first of two keys."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        # Here, not where values are made: a merge (`<<`) repeats keys lawfully.
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.MarkedYAMLError(
                    problem=f"the key `{key.value}` stands in lines {lines[key.value]} "
                    f"and {line} of one mapping; only one would count"
                )
            lines[key.value] = line
        return node
