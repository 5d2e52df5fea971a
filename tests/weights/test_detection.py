"""The detection files hold what the paper says; the page's lines run."""

import re
from pathlib import Path

import pytest
import torch
import weight_files
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs" / "benchmark" / "detection").glob("*.yaml"))
PAGE = ROOT / "docs" / "detection.md"
WORDS = ("Source", "Batch", "Command", "Expected", "Cost", "Measured")
# Keys of detectron2's config/defaults.py that the files set, with the type there.
KEYS = {
    "VERSION": int,
    "MODEL.META_ARCHITECTURE": str,
    "MODEL.MASK_ON": bool,
    "MODEL.PIXEL_MEAN": list,
    "MODEL.PIXEL_STD": list,
    "MODEL.BACKBONE.NAME": str,
    "MODEL.BACKBONE.FREEZE_AT": int,
    "MODEL.RESNETS.DEPTH": int,
    "MODEL.RESNETS.NORM": str,
    "MODEL.RESNETS.STRIDE_IN_1X1": bool,
    "MODEL.RESNETS.OUT_FEATURES": list,
    "MODEL.FPN.IN_FEATURES": list,
    "MODEL.FPN.NORM": str,
    "MODEL.ANCHOR_GENERATOR.SIZES": list,
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": list,
    "MODEL.RPN.IN_FEATURES": list,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": int,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": int,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": int,
    "MODEL.RPN.POST_NMS_TOPK_TEST": int,
    "MODEL.ROI_HEADS.NAME": str,
    "MODEL.ROI_HEADS.NUM_CLASSES": int,
    "MODEL.ROI_HEADS.IN_FEATURES": list,
    "MODEL.ROI_BOX_HEAD.NAME": str,
    "MODEL.ROI_BOX_HEAD.NUM_FC": int,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": int,
    "MODEL.ROI_MASK_HEAD.NAME": str,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": int,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": int,
    "INPUT.FORMAT": str,
    "INPUT.MIN_SIZE_TRAIN": list,
    "INPUT.MIN_SIZE_TEST": int,
    "DATASETS.TRAIN": list,
    "DATASETS.TEST": list,
    "SOLVER.IMS_PER_BATCH": int,
    "SOLVER.BASE_LR": float,
    "SOLVER.WARMUP_ITERS": int,
    "SOLVER.WARMUP_FACTOR": float,
    "SOLVER.STEPS": list,
    "SOLVER.MAX_ITER": int,
    "TEST.PRECISE_BN.ENABLED": bool,
}


def flat(tree, above=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def read(name):
    (path,) = [path for path in FILES if path.stem == name]
    return dict(flat(yaml.safe_load(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_keys_are_detectron2s(path):
    found = read(path.stem)
    assert set(found) <= set(KEYS)
    assert all(type(value) is KEYS[key] for key, value in found.items())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_opening(path):
    text = path.read_text(encoding="utf-8")
    assert [word for word in WORDS if f"\n# {word}: " not in text] == []
    images, processes, machines, total = map(
        int,
        re.search(r"(\d+) images x (\d+) \w+ x (\d+) machine = (\d+)", text).groups(),
    )
    assert (
        images * processes * machines
        == total
        == read(path.stem)["SOLVER.IMS_PER_BATCH"]
    )
    steps, size, epochs = re.search(
        r"([\d ]+) steps of ([\d ]+) images\s+(?:# +)?are ([\d.]+)\s+(?:# +)?epochs",
        text,
    ).groups()
    steps, size = (int(number.replace(" ", "")) for number in (steps, size))
    assert steps == read(path.stem)["SOLVER.MAX_ITER"]
    assert float(epochs) == pytest.approx(steps * total / size, abs=0.05)
    assert f"--config-file configs/benchmark/detection/{path.name}" in text
    assert f"`configs/benchmark/detection/{path.name}`" in PAGE.read_text(
        encoding="utf-8"
    )


def test_voc_is_the_papers():
    found = read("voc0712_faster_rcnn_c4")
    assert found["SOLVER.BASE_LR"] == 0.1
    assert (found["SOLVER.WARMUP_ITERS"], found["SOLVER.WARMUP_FACTOR"]) == (
        1000,
        0.333,
    )
    assert found["SOLVER.STEPS"] == [18000, 22000]
    assert found["SOLVER.MAX_ITER"] == 24000
    assert found["MODEL.ROI_HEADS.NAME"] == "Res5ROIHeadsExtraNorm"
    assert found["MODEL.ROI_HEADS.NUM_CLASSES"] == 20


def test_coco_is_the_1x_schedule():
    found = read("coco_mask_rcnn_fpn")
    assert found["MODEL.MASK_ON"] and found["MODEL.ROI_HEADS.NUM_CLASSES"] == 80
    assert (found["SOLVER.MAX_ITER"], found["SOLVER.STEPS"]) == (90000, [60000, 80000])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_both_take_the_exports_images(path):
    """Our trunks see RGB in [0, 1], normalised by ImageNet's numbers."""
    found = read(path.stem)
    assert found["INPUT.FORMAT"] == "RGB" and not found["MODEL.RESNETS.STRIDE_IN_1X1"]
    levels = [255 * number for number in (0.485, 0.456, 0.406)]
    assert found["MODEL.PIXEL_MEAN"] == pytest.approx(levels)
    levels = [255 * number for number in (0.229, 0.224, 0.225)]
    assert found["MODEL.PIXEL_STD"] == pytest.approx(levels)


def test_vissls_tool_has_the_head_that_the_file_names(host):
    """Not imported: it needs detectron2."""
    import tools

    text = Path(tools.__file__).with_name("object_detection_benchmark.py").read_text()
    assert "class Res5ROIHeadsExtraNorm(Res5ROIHeads)" in text
    assert '"--config-file"' in text or "default_argument_parser" in text


def test_the_start_script_of_detr(tmp_path, monkeypatch):
    """The page's lines, and a backbone as DETR's `models/backbone.py` asks for it."""
    import torchvision

    (program,) = re.findall(
        r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S
    )
    net = weight_files.resnet("resnet50")
    source = weight_files.saved(weight_files.trunk_of(net), tmp_path / "a.pth")
    weights = tmp_path / "swav.pth"
    assert weight_files.export(source, "--to", "torchvision", "-o", weights) == 0
    monkeypatch.setenv("SWAV_WEIGHTS", str(weights))
    # Put back after the test: the program replaces it.
    monkeypatch.setattr(torchvision.models, "resnet50", torchvision.models.resnet50)
    exec(compile(program, PAGE.name, "exec"), {"__name__": "detr_swav"})
    found = torchvision.models.resnet50(
        replace_stride_with_dilation=[False, False, False],
        pretrained=True,
        norm_layer=torchvision.ops.misc.FrozenBatchNorm2d,
    )
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(
        weight_files.features(found, images), weight_files.features(net, images)
    )
