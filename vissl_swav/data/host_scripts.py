"""Benchmark data sets that VISSL prepares itself: which of its scripts makes which.

The scripts are `extra_scripts.datasets.create_*` of its wheel; `vissl-swav data` has no
readers for these sets, it names the way.
"""

_FOLDER = "extra_scripts.datasets"
# Name in small letters and digits -> the script's name.
_SCRIPTS = {
    "caltech101": "caltech101_data_files",
    "clevrcount": "clevr_count_data_files",
    "clevrdist": "clevr_dist_data_files",
    "coco": "coco_data_files",
    "dspritesloc": "dsprites_location_data_files",
    "dspritesorient": "dsprites_orientation_data_files",
    "aircraft": "fgvc_aircraft_data_files",
    "aircrafts": "fgvc_aircraft_data_files",
    "gtsrb": "gtsrb_data_files",
    "imageneta": "imagenet_a_data_files",
    "imagenetr": "imagenet_r_data_files",
    "imagenetsketch": "imagenet_sketch_data_files",
    "kinetics700": "k700_data_files",
    "kittidist": "kitti_dist_data_files",
    "patchcamelyon": "patch_camelyon_data_files",
    "pcam": "patch_camelyon_data_files",
    "roxford": "roxford_dataset",
    "rparis": "rparis_dataset",
    "smallnorbazimuth": "small_norb_azimuth_data_files",
    "smallnorbelevation": "small_norb_elevation_data_files",
    "stanfordcars": "stanford_cars_data_files",
    "sun397": "sun397_data_files",
    "ucf101": "ucf101_data_files",
}
_BY_TORCHVISION = {"mnist": "MNIST", "svhn": "SVHN"}
_PAGE = "docs/benchmark_data.md says more. "


def how_to_make(name: str) -> str | None:
    """What prepares a data set that is none of `vissl-swav data`; None if unknown."""
    word = "".join(letter for letter in name.lower() if letter.isalnum())
    if word in _SCRIPTS:
        return (
            f"VISSL's own script makes it: python -m {_FOLDER}.create_{_SCRIPTS[word]} "
            f"(--help says how). {_PAGE}"
        )
    if word in _BY_TORCHVISION:
        return (
            "VISSL reads torchvision's folder as it is: "
            f'torchvision.datasets.{_BY_TORCHVISION[word]}("LOCAL", download=True), '
            f"then config.DATA.TRAIN.DATA_PATHS=[LOCAL] and the same of TEST. {_PAGE}"
        )
    if word == "copydays":
        return f"VISSL has no script for it; it is laid out by hand. {_PAGE}"
    if word == "places365":
        return (
            "Places365 is another data set than the paper's Places205: 365 classes, "
            "other images, so that figures on it cannot stand beside the paper's. As "
            "an image folder any linear config takes it, with 365 classes in its head. "
        )
    return None
