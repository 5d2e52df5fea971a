"""The names that users import: pinned, documented, on a page, free of the host.

To add one: a line in `vissl_swav/__init__.py`, one in `NAMES` here, one in the table of
docs/parts/index.md and its page.
"""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vissl_swav

ROOT = Path(__file__).resolve().parents[1]
INDEX = ROOT / "docs" / "parts" / "index.md"
METHOD = (
    "num_images num_crops num_prototypes embedding_dim crops_for_assign temperature "
    "bank_dtype"
)
# Name: its parameters, keyword-only ones behind the star. A change here is a change for
# every user: it stands in the changelog.
NAMES = {
    "Assignment": "prototypes cluster_sizes objective num_iterations error",
    "BalancedLabels": "labels weights log_scaling error num_iterations objective",
    "BatchedMultiCrop": "groups * mean std channels dtype max_bytes",
    "Collective": None,
    "CropLayout": "num_crops crops_for_assign",
    "DeepClusterV2": f"* {METHOD} num_iterations tolerance seeding empty_clusters "
    "nearest",
    "FaissNearest": "",
    "FeatureQueue": "* num_assign_crops length dim dtype",
    "KMeansResult": "centroids assignments objective counts",
    "LOCAL": None,
    "MemoryBank": "* num_images num_banks dim dtype",
    "MultiCrop": "* size_crops num_crops crop_scales crop_ratios flip_probability "
    "jitter jitter_probability grayscale_probability blur_probability blur_radius "
    "solarize_probability solarize_threshold mean std channels backend output "
    "total_num_crops",
    "Nearest": None,
    "Prototypes": "dim num_prototypes * trainable",
    "SeLaV2": f"* {METHOD} epsilon tolerance max_iterations num_labels",
    "SwAV": "* num_crops num_prototypes embedding_dim crops_for_assign temperature "
    "epsilon num_iterations hard_codes hard_codes_steps queue_length queue_start_step "
    "queue_dtype",
    "TorchNearest": "max_bytes * coarse",
    "balanced_labels": "features prototypes * epsilon tolerance max_iterations "
    "num_labels max_bytes collective",
    "cluster_prediction_loss": "scores labels weights * num_crops temperature "
    "collective",
    "collective": "group",
    "load_into": "model path part * allow_partial trunk_prefix report",
    "load_weights": "path part * trunk_prefix momentum",
    "normalize_rows_": "weight",
    "momentum_at": "step * num_steps start end",
    "momentum_copy": "model",
    "predictor": "path * part size mean std device config",
    "simclr_multicrop_loss": "features * num_crops temperature max_similarities "
    "collective",
    "sinkhorn": "scores * epsilon num_iterations tolerance hard collective",
    "spherical_kmeans": "features * num_clusters num_iterations tolerance "
    "initial_centroids seeding row_ids empty_clusters generator nearest collective",
    "swapped_prediction_loss": "scores * num_crops crops_for_assign temperature "
    "epsilon num_iterations queue_scores code_scores hard_codes collective",
    "update_momentum_": "target source momentum",
}
# What has methods to be called, by the same rule.
METHODS = {
    "BatchedMultiCrop.__call__": "images sizes keys",
    "Collective.all_gather": "tensor",
    "Collective.all_reduce_max": "tensor",
    "Collective.all_reduce_sum": "tensor",
    "DeepClusterV2.assign": "prototypes * epoch seed collective",
    "DeepClusterV2.forward": "scores images valid * collective",
    "DeepClusterV2.remember": "features images valid",
    "DeepClusterV2.start_epoch": "prototypes * epoch every seed collective",
    "FeatureQueue.push": "features",
    "FeatureQueue.score": "prototypes",
    "MemoryBank.images": "",
    "MemoryBank.rows": "bank",
    "MemoryBank.settle": "collective",
    "MemoryBank.write": "features index valid",
    "MultiCrop.__call__": "image generator * key",
    "Nearest.__call__": "features centroids",
    "Prototypes.forward": "features",
    "Prototypes.normalize_": "",
    "Prototypes.weights": "",
    "SwAV.finish_step": "features * of_assignment_crops",
    "SwAV.forward": "scores * queue_scores code_scores collective",
    "SwAV.score_queue": "prototypes",
}
SHAPE = re.compile(r"\((([A-Zn]\w*|1|\.\.\.|height)( \* \w+)?[,)]|channels, )|scalar")
# These take and give no tensor.
NO_SHAPES = {"FaissNearest", "TorchNearest", "load_into", "load_weights", "predictor"}
NO_SHAPES |= {"momentum_at", "momentum_copy"}
NO_SHAPES |= {"collective", "Prototypes.normalize_", "MemoryBank.settle"}


def parameters(function):
    """Names in order, a star before the first keyword-only one."""
    words = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        words.append(parameter.name)
    return " ".join(words)


def resolve(path):
    name, _, method = path.partition(".")
    found = getattr(vissl_swav, name)
    return getattr(found, method) if method else found


def docstring(found):
    """Of a class with those of its methods; of `LOCAL` those of its class."""
    if inspect.isfunction(found):
        return inspect.getdoc(found) or ""
    kind = found if inspect.isclass(found) else type(found)
    ours = [base for base in kind.__mro__ if base.__module__.startswith("vissl_swav")]
    documented = [*ours, *(member for base in ours for member in vars(base).values())]
    functions = (m for m in documented if inspect.isclass(m) or inspect.isfunction(m))
    return "\n".join(inspect.getdoc(member) or "" for member in functions)


def test_the_list_is_the_pinned_one():
    assert set(vissl_swav.__all__) == {"__version__", *NAMES}
    assert set(dir(vissl_swav)) >= set(NAMES)


@pytest.mark.parametrize("name", sorted({**NAMES, **METHODS}))
def test_parameters_and_docstring(name):
    pytest.importorskip("PIL")
    found, pinned = resolve(name), {**NAMES, **METHODS}[name]
    said = docstring(found)
    assert len(said) > 20
    if pinned is not None:
        assert parameters(found) == pinned
        if "." not in name:
            for word in set(pinned.split()) - {"*"}:
                assert re.search(rf"`{word}`|\b{word}: ", said), (
                    f"{word}: no word on it"
                )
    if name not in NO_SHAPES:
        assert SHAPE.search(said), "no shape"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_it_stands_on_a_page(name):
    """In the index's table, whose row leads to a page that speaks of it."""
    rows = [line for line in INDEX.read_text().splitlines() if f"`{name}`" in line]
    rows = [line for line in rows if line.startswith("|")]
    assert len(rows) == 1, f"{name}: wanted one row of docs/parts/index.md"
    (target,) = re.findall(r"\]\(([^)]+)\)", rows[0])
    page = (INDEX.parent / target).resolve().read_text()
    assert re.search(rf"\b{name}\b", page), f"{target} does not name {name}"


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "vissl_swav" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == vissl_swav._PUBLIC
    assert (ROOT / "vissl_swav" / "py.typed").exists()


PROGRAM = """
import sys

def hide(names):
    sys.modules.update(dict.fromkeys(names.split()))

hide("vissl classy_vision hydra fairscale torchvision PIL cv2 faiss")
import vissl_swav as v

others = {"MultiCrop", "BatchedMultiCrop", "load_weights", "load_into", "predictor"}
for name in set(v.__all__) - others:
    assert getattr(v, name) is not None

import torch

loaded = set(sys.modules)
scores = torch.rand(4, 3)
assert v.sinkhorn(scores, collective=v.collective()).shape == (4, 3)
v.swapped_prediction_loss(scores, num_crops=2)
v.spherical_kmeans(scores, num_clusters=2)
v.FeatureQueue(num_assign_crops=1, length=2, dim=2).push(torch.ones(1, 2, 2))
new = set(sys.modules) - loaded
assert not any(name.startswith("torch._dynamo") for name in new), "the compiler"

for name in ("PIL", "cv2"):  # What the transforms ask for; the others stay hidden.
    del sys.modules[name]
from PIL import Image

crops = v.MultiCrop(size_crops=[8], num_crops=[2], crop_scales=[[0.5, 1]])
assert len(crops(Image.new("RGB", (16, 16)))) == 2
assert v.BatchedMultiCrop(crops) and v.load_weights and v.load_into
"""


def test_the_parts_need_torch_alone_and_the_transforms_no_host():
    """Nor do the parts load torch's compiler, which takes seconds."""
    pytest.importorskip("cv2")
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, cwd=ROOT, timeout=120)
