"""The table of the benchmark data sets; ``benchmarks`` says what each field means.

Every figure has its source in ``source``; where none was found nothing is said.  URLs
and MD5 sums of archives are those of torchvision 0.28, but for iNaturalist 2018, whose
sums its own README states, and for SimCLR's lists, which have none.
"""

from __future__ import annotations

import difflib

from vissl_swav.data.benchmarks import FOLDER, LISTS, Archive, Benchmark
from vissl_swav.data.errors import DataError
from vissl_swav.data.host_scripts import how_to_make

_TFDS = "tensorflow.org/datasets/catalog"
_READ_PAGE = "not stated where the figures are from; read the page before use"
_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_LINEAR = "benchmark/linear_image_classification"
_LOW_TUNE = "benchmark/low_shot_transfer"
_SIMCLR = (
    "https://raw.githubusercontent.com/google-research/simclr/master/imagenet_subsets"
)
_INAT = "https://ml-inat-competition-datasets.s3.amazonaws.com/2018"
_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007"
_IMAGENET_TERMS = (
    "registration at image-net.org; non-commercial research and education only"
)


def _linear(folder: str, *, low_tune: bool = False) -> tuple[str, ...]:
    configs = (f"{_LINEAR}/{folder}/eval_resnet_8gpu_transfer_{folder}_linear",)
    if low_tune:
        last = f"eval_resnet_8gpu_transfer_{folder}_low_tune"
        configs += (f"{_LOW_TUNE}/{folder}/{last}",)
    return configs


def _imagenet_subset(percent: int, images: int, size: str) -> Benchmark:
    return Benchmark(
        name=f"imagenet_{percent}percent",
        title=f"ImageNet, the {percent} % of its labels that SimCLR drew",
        page="https://github.com/google-research/simclr",
        terms=f"ImageNet's: {_IMAGENET_TERMS}",
        num_classes=1000,
        num_images={"train": images, "val": 50_000},
        download=f"{size} (the list; ImageNet itself you must have)",
        layout=FOLDER,
        wants=(
            "ImageNet's train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, and SimCLR's list "
            f"{percent}percent.txt beside them or named by --list; or --draw"
        ),
        split="the list's images; all of ImageNet's validation images",
        host_configs=(
            "benchmark/semi_supervised/imagenet1k/"
            "eval_resnet_8gpu_transfer_in1k_semi_sup_fulltune",
            f"benchmark/semi_supervised/imagenet1k/dataset/simclr_in1k_per{percent:02d}",
        ),
        paper="Table 1, semi-supervised; Table 10 takes 13 and 128 images a class",
        source=f"{_TFDS}/imagenet2012_subset",
        archives=(Archive(url=f"{_SIMCLR}/{percent}percent.txt", md5=None),),
    )


_ALL = (
    Benchmark(
        name="imagenet",
        title="ImageNet-1k (ILSVRC 2012)",
        page="https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
        terms=_IMAGENET_TERMS,
        num_classes=1000,
        num_images={"train": 1_281_167, "val": 50_000},
        download="no download: after registration only",
        layout=FOLDER,
        wants="train/<wnid>/*.JPEG and val/<wnid>/*.JPEG; it is checked, not rewritten",
        split="the official ones",
        host_configs=(
            f"{_LINEAR}/imagenet1k/eval_resnet_8gpu_transfer_in1k_linear",
            "benchmark/nearest_neighbor/eval_resnet_8gpu_in1k_kNN",
            "benchmark/fulltune/imagenet1k/eval_resnet_8gpu_transfer_in1k_fulltune",
        ),
        paper="linear classification (Figure 2, Tables 3 and 5), k-NN (Table 11)",
        source=f"{_TFDS}/imagenet2012",
    ),
    _imagenet_subset(1, 12_811, "254 KiB"),
    _imagenet_subset(10, 128_116, "2.48 MiB"),
    Benchmark(
        name="places205",
        title="Places205",
        page="http://places.csail.mit.edu/downloadData.html",
        terms=_READ_PAGE,
        num_classes=205,
        num_images={"train": 2_448_873, "val": 20_500},
        download="no download: by its page only",
        layout=LISTS,
        wants=(
            "trainvalsplit_places205/{train,val}_places205.csv, and the images of "
            "imagesPlaces205_resize.tar.gz in data/vision/torralba/deeplearning/"
            "images256/"
        ),
        split="the official lists; not those of Places365, which is another data set",
        host_configs=(
            f"{_LINEAR}/places205/eval_resnet_8gpu_transfer_places205_linear",
            "benchmark/nearest_neighbor/eval_resnet_8gpu_places205_kNN",
            "benchmark/fulltune/places205/eval_resnet_8gpu_transfer_places205_fulltune",
            f"{_LOW_TUNE}/places205/eval_resnet_8gpu_transfer_places205_low_shot_svm",
        ),
        paper="Table 2, linear; finetuning in the authors' response",
        source="arXiv 1610.02055 (100 validation images a class)",
    ),
    Benchmark(
        name="inaturalist18",
        title="iNaturalist 2018",
        page="https://github.com/visipedia/inat_comp/tree/master/2018",
        terms="non-commercial research and education; images must not be passed on",
        num_classes=8142,
        num_images={"train": 437_513, "val": 24_426},
        download="120 GB of images, 52 MB of annotations",
        layout=LISTS,
        wants="train2018.json, val2018.json and train_val2018/<group>/<species>/*.jpg",
        split="the official ones",
        host_configs=_linear("inaturalist18"),
        paper="Table 2, linear; finetuning in the authors' response",
        source="the README of github.com/visipedia/inat_comp, 2018",
        archives=(
            Archive(
                url=f"{_INAT}/train2018.json.tar.gz",
                md5="bfa29d89d629cbf04d826a720c0a68b0",
            ),
            Archive(
                url=f"{_INAT}/val2018.json.tar.gz",
                md5="f2ed8bfe3e9901cdefceb4e53cd3775d",
            ),
            Archive(
                url=f"{_INAT}/train_val2018.tar.gz",
                md5="b1c6952ce38f31868cc50ea72d066cc3",
            ),
        ),
    ),
    Benchmark(
        name="voc07",
        title="PASCAL VOC 2007, classification",
        page="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
        terms=_READ_PAGE,
        num_classes=20,
        num_images={"train": 5011, "test": 4952},
        download="869 MiB",
        layout=LISTS,
        wants="VOCdevkit/VOC2007/{ImageSets/Main,JPEGImages}",
        split="trainval and test; labels 1 present, 0 absent, -1 all objects difficult",
        host_configs=(
            f"{_LINEAR}/voc07/eval_resnet_8gpu_transfer_voc07_svm",
            f"{_LOW_TUNE}/voc07/eval_resnet_8gpu_transfer_voc07_low_shot_svm",
        ),
        paper="Table 2, linear SVM, mAP",
        source=f"{_TFDS}/voc",
        archives=(
            Archive(
                url=f"{_VOC}/VOCtrainval_06-Nov-2007.tar",
                md5="c52e279531787c972589f7e41ab4ae64",
            ),
            Archive(
                url=f"{_VOC}/VOCtest_06-Nov-2007.tar",
                md5="b6e924de25625d8de591ea690078ad9f",
            ),
        ),
    ),
    Benchmark(
        name="cifar10",
        title="CIFAR-10",
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
        terms=_READ_PAGE,
        num_classes=10,
        num_images={"train": 50_000, "test": 10_000},
        download="162 MiB",
        layout=FOLDER,
        wants="cifar-10-batches-py/ of the Python version",
        split="the official ones",
        host_configs=_linear("cifar10"),
        paper="not in the paper",
        source=f"{_TFDS}/cifar10",
        archives=(
            Archive(
                url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                md5="c58f30108f718f92721af3b95e74349a",
            ),
        ),
    ),
    Benchmark(
        name="cifar100",
        title="CIFAR-100, fine labels",
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
        terms=_READ_PAGE,
        num_classes=100,
        num_images={"train": 50_000, "test": 10_000},
        download="161 MiB",
        layout=FOLDER,
        wants="cifar-100-python/ of the Python version",
        split="the official ones",
        host_configs=_linear("cifar100", low_tune=True),
        paper="not in the paper",
        source=f"{_TFDS}/cifar100",
        archives=(
            Archive(
                url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
                md5="eb9058c3a382ffc7106e4002c42a8d85",
            ),
        ),
    ),
    Benchmark(
        name="stl10",
        title="STL-10, labelled part",
        page="https://cs.stanford.edu/~acoates/stl10/",
        terms=_READ_PAGE,
        num_classes=10,
        num_images={"train": 5000, "test": 8000},
        download="2.46 GiB",
        layout=FOLDER,
        wants="stl10_binary/ with the unlabelled file, whose sum is checked too",
        split="the official ones",
        host_configs=_linear("stl10"),
        paper="not in the paper",
        source=f"{_TFDS}/stl10",
        archives=(
            Archive(
                url="http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
                md5="91f7769df0f17e558f3565bffb0c7dfb",
            ),
        ),
    ),
    Benchmark(
        name="food101",
        title="Food-101",
        page="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        terms="images of Foodspotting; beyond scientific fair use ask their owners",
        num_classes=101,
        num_images={"train": 75_750, "test": 25_250},
        download="4.65 GiB",
        layout=FOLDER,
        wants="food-101/{images,meta}",
        split="the official ones, meta/train.txt and meta/test.txt",
        host_configs=_linear("food101"),
        paper="not in the paper",
        source=f"{_TFDS}/food101",
        archives=(
            Archive(
                url="http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                md5="85eeb15f3717b99a5da872d97d918f87",
            ),
        ),
    ),
    Benchmark(
        name="pets",
        title="Oxford-IIIT Pet",
        page=f"{_VGG}/pets/",
        terms=_READ_PAGE,
        num_classes=37,
        num_images={"train": 3680, "test": 3669},
        download="774 MiB",
        layout=FOLDER,
        wants="images/*.jpg and annotations/{trainval,test}.txt",
        split="trainval and test",
        host_configs=_linear("oxford_pets", low_tune=True),
        paper="not in the paper",
        source=f"{_TFDS}/oxford_iiit_pet",
        archives=(
            Archive(
                url=f"{_VGG}/pets/data/images.tar.gz",
                md5="5c4f3ee8e5d25df40f4fd59a7f44e54c",
            ),
            Archive(
                url=f"{_VGG}/pets/data/annotations.tar.gz",
                md5="95a8c909bbe2e81eed6a22bccdf3f68f",
            ),
        ),
    ),
    Benchmark(
        name="flowers102",
        title="Oxford 102 Flowers",
        page=f"{_VGG}/flowers/102/",
        terms=_READ_PAGE,
        num_classes=102,
        num_images={"train": 2040, "test": 6149},
        download="337 MiB",
        layout=FOLDER,
        wants="jpg/image_*.jpg, imagelabels.mat and setid.mat",
        split="train is the official training and validation sets, as VISSL's script",
        host_configs=_linear("oxford_flowers", low_tune=True),
        paper="not in the paper",
        source=f"{_TFDS}/oxford_flowers102",
        archives=(
            Archive(
                url=f"{_VGG}/flowers/102/102flowers.tgz",
                md5="52808999861908f626f3c1f4e79d11fa",
            ),
            Archive(
                url=f"{_VGG}/flowers/102/imagelabels.mat",
                md5="e0620be6f572b9609742df49c70aed4d",
            ),
            Archive(
                url=f"{_VGG}/flowers/102/setid.mat",
                md5="a5357ecc9cb78c4bef273ce3793fc85c",
            ),
        ),
    ),
    Benchmark(
        name="dtd",
        title="Describable Textures (DTD), partition 1",
        page=f"{_VGG}/dtd/",
        terms="made available for research purposes",
        num_classes=47,
        num_images={"train": 3760, "test": 1880},
        download="608 MiB",
        layout=FOLDER,
        wants="dtd/{images,labels}",
        split="train1 and val1 together, VISSL's `trainval`; test1",
        host_configs=_linear("dtd", low_tune=True),
        paper="not in the paper",
        source=f"{_TFDS}/dtd",
        archives=(
            Archive(
                url=f"{_VGG}/dtd/download/dtd-r1.0.1.tar.gz",
                md5="fff73e5086ae6bdbea199a49dfb8a4c1",
            ),
        ),
    ),
    Benchmark(
        name="eurosat",
        title="EuroSAT, RGB",
        page="https://github.com/phelber/eurosat",
        terms=_READ_PAGE,
        num_classes=10,
        num_images={"train": 10_000, "val": 5000},
        download="89.9 MiB",
        layout=FOLDER,
        wants="2750/<class>/*.jpg",
        split=(
            "it has none; VISSL's script takes the first 1000 files of each class, by "
            "name, for training and the next 500 for val, of 27 000 in all"
        ),
        host_configs=_linear("euro_sat", low_tune=True),
        paper="not in the paper",
        source=f"{_TFDS}/eurosat; VISSL's create_euro_sat_data_files.py",
        archives=(
            Archive(
                url="https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
                "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                md5="c8fa014336c82ac7804f0398fcb19387",
            ),
        ),
    ),
)

BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}


def find(name: str) -> Benchmark:
    """The data set of that name.

    Raises:
        DataError: there is none; names the nearest, or what else makes it.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    near = difflib.get_close_matches(name.lower(), BENCHMARKS, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}? " if near else ""
    hint = how_to_make(name) or hint
    raise DataError(
        f"there is no benchmark data set {name!r}. {hint}Wanted one of: "
        f"{', '.join(BENCHMARKS)}."
    )
