"""Names of a ResNet's tensors: torchvision's are the ones used here.

Others are brought to them: a `nn.Sequential` of a ResNet's children ("0.weight",
"4.0.conv1.weight", as lightly's examples make it), lightly's own ResNet ("shortcut"),
detectron2 ("stem.conv1.norm.weight", "res2.0.shortcut.weight").
"""

import re
from collections.abc import Iterable

_BLOCK = re.compile(r"(\d+)\.(\d+\.(?:conv|bn|downsample|shortcut)\d*\..+)")
_NUM_LAYERS = 4
# torchvision's name -> detectron2's, without the last word (weight, running_mean).
_DETECTRON2 = (
    (r"conv1", "stem.conv1"),
    (r"bn1", "stem.conv1.norm"),
    (r"layer(\d)\.(\d+)\.conv(\d)", "res{0}.{1}.conv{2}"),
    (r"layer(\d)\.(\d+)\.bn(\d)", "res{0}.{1}.conv{2}.norm"),
    (r"layer(\d)\.(\d+)\.downsample\.0", "res{0}.{1}.shortcut"),
    (r"layer(\d)\.(\d+)\.downsample\.1", "res{0}.{1}.shortcut.norm"),
)


def canonical(names: Iterable[str]) -> dict[str, str]:
    """Each name of a trunk to torchvision's; names of other nets stay as they are."""
    names = list(names)
    found = _from_sequential(names) or _from_detectron2(names)
    if not found:
        found = {name: name for name in names}
    return {
        old: re.sub(r"^(layer\d\.\d+)\.shortcut\.", r"\1.downsample.", new)
        for old, new in found.items()
    }


def is_resnet(names: Iterable[str]) -> bool:
    """Whether canonical names are those of a ResNet with torchvision's parts."""
    return {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= set(names)


def to_detectron2(name: str) -> str | None:
    """detectron2's name of a ResNet's tensor; None for what it has no place for."""
    module, _, last = name.rpartition(".")
    if last == "num_batches_tracked":
        return None
    for pattern, made in _DETECTRON2:
        if match := re.fullmatch(pattern, module):
            layer, *rest = match.groups() or ("0",)
            return f"{made.format(int(layer) + 1, *rest)}.{last}"
    return None


def _from_sequential(names: list[str]) -> dict[str, str]:
    """Children by number: convolution, norm, perhaps ReLU and pooling, four layers."""
    if not {"0.weight", "1.weight"} <= set(names):
        return {}
    blocks = {int(match[1]) for name in names if (match := _BLOCK.fullmatch(name))}
    if len(blocks) != _NUM_LAYERS:
        return {}
    new = {"0": "conv1", "1": "bn1"}
    new |= {str(old): f"layer{n}" for n, old in enumerate(sorted(blocks), start=1)}
    heads = {name: name.partition(".") for name in names}
    return {
        name: f"{new.get(first, first)}.{rest}"
        for name, (first, _, rest) in heads.items()
    }


def _from_detectron2(names: list[str]) -> dict[str, str]:
    if "stem.conv1.norm.weight" not in names:
        return {}
    return {name: _of_detectron2(name) for name in names}


def _of_detectron2(name: str) -> str:
    name = re.sub(r"^stem\.conv1\.norm\.", "bn1.", name)
    name = re.sub(r"^stem\.", "", name)
    name = re.sub(
        r"^res(\d)\.", lambda match: f"layer{int(match[1]) - 1}.", name, count=1
    )
    name = re.sub(r"\.conv(\d)\.norm\.", r".bn\1.", name)
    name = re.sub(r"\.shortcut\.norm\.", ".downsample.1.", name)
    return re.sub(r"\.shortcut\.(?!1\.)", ".downsample.0.", name)
