"""`predictor(path)`: the model and its transform, against Pillow and torchvision."""

import cluster_runs
import host_runs
import numpy as np
import pytest
import torch
import weight_files
from PIL import Image

from vissl_swav.data.decoding import UnreadableImage
from vissl_swav.host.errors import StartError
from vissl_swav.suite.predictor import predictor
from vissl_swav.weights.errors import WeightsError

NET = weight_files.resnet()
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def picture():
    levels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((480, 320), Image.BILINEAR)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "swav.pth.tar"
    trunk = weight_files.trunk_of(NET)
    return weight_files.saved(weight_files.authors(trunk), path)


@pytest.fixture(scope="module")
def run(host, tmp_path_factory):
    images = host_runs.make_images(tmp_path_factory.mktemp("images") / "set")
    folder = tmp_path_factory.mktemp("runs") / "ours"
    return cluster_runs.untrained(images, folder, loss="sela_v2", clusters=(12, 5))


def view(picture, size, mean=MEAN, std=STD):
    """The centre of 7/8 of the shorter side, by Pillow, as (1, C, size, size)."""
    width, height = picture.size
    side = round(7 / 8 * min(width, height))
    left, top = (width - side) // 2, (height - side) // 2
    cut = picture.crop((left, top, left + side, top + side))
    levels = np.asarray(cut.resize((size, size), Image.BILINEAR)) / 255
    return torch.tensor(((levels - mean) / std).transpose(2, 0, 1)[None]).float()


def test_a_foreign_resnet(file, picture, tmp_path):
    model, transform = predictor(file, device="cpu")
    assert not model.training
    made = transform(picture)
    assert made.shape == (3, 224, 224)
    # A level or two: Pillow rounds between its two passes.
    assert (made - view(picture, 224)[0]).abs().max() < 2.5 / 255 / STD.min()
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), weight_files.features(NET, images))


def test_every_kind_of_image_gives_the_same_features(file, picture, tmp_path):
    model = predictor(file, device="cpu")
    wanted = model(picture)
    assert wanted.shape == (1, 512) and wanted.dtype == torch.float32
    picture.save(tmp_path / "a.png")
    levels = np.asarray(picture)
    tensor = torch.tensor(levels).permute(2, 0, 1)
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), levels, tensor):
        torch.testing.assert_close(model(image), wanted)
    done = model.transform(picture)
    for batch in (done, done[None], [picture], tensor[None]):
        torch.testing.assert_close(model(batch), wanted)
    both = model([picture, tmp_path / "a.png"])
    torch.testing.assert_close(both, wanted.repeat(2, 1), atol=1e-5, rtol=1e-5)


def test_torchvisions_resize_and_crop_is_near(file, picture):
    """256 and 224, as everybody's evaluation: the same features but for rounding."""
    from torchvision import transforms

    model = predictor(file, device="cpu")
    theirs = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(MEAN.tolist(), STD.tolist()),
        ]
    )(picture)
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(model(theirs), model(picture)).item() > 0.999


def test_a_run_of_ours(run, picture):
    """Size, mean and standard deviation of the run; VISSL's own trunk and head."""
    from vissl_swav.suite.checkpoint_model import load_model

    own = load_model(run, device="cpu")
    images = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        (trunk,) = own.model.trunk(images, [])
    model = predictor(run, device="cpu")
    torch.testing.assert_close(model(images), trunk)
    torch.testing.assert_close(
        predictor(run / "checkpoint.torch", part="all", device="cpu")(images),
        own.features(images),
    )
    made = model.transform(picture)
    assert made.shape == (3, 24, 24)
    assert (made - view(picture, 24)[0]).abs().max() < 2.5 / 255 / STD.min()


def test_the_head_of_a_foreign_file(file):
    images = torch.randn(2, 3, 64, 64)
    Z = predictor(file, part="all", device="cpu")(images)
    with torch.no_grad():
        features = weight_files.features(NET, images)
        wanted = torch.nn.functional.normalize(weight_files.head()(features), dim=1)
    torch.testing.assert_close(Z, wanted)


@pytest.mark.parametrize("padding", [1, 2])
def test_small_stems(padding, tmp_path):
    """solo-learn pads the 3x3 stem of its CIFAR nets by 2, all others by 1."""
    small = weight_files.small(NET)
    trunk = weight_files.trunk_of(small)
    content = weight_files.solo_learn(trunk) if padding == 2 else trunk
    model = predictor(weight_files.saved(content, tmp_path / "a.ckpt"), device="cpu")
    assert model.transform.shape.crop_size == 32
    small.conv1.padding = (padding, padding)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images), weight_files.features(small, images))


def test_the_function_of_torchvision_is_known_by_the_shapes():
    import torchvision

    from vissl_swav.weights.plain_resnet import torchvision_name

    names = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
    wide = (
        "wide_resnet50_2",
        "wide_resnet101_2",
        "resnext50_32x4d",
        "resnext101_32x8d",
    )
    with torch.device("meta"):
        for name in (*names, *wide):
            net = getattr(torchvision.models, name)()
            assert torchvision_name(weight_files.trunk_of(net)) == name
        net = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1] * 4)
    assert torchvision_name(weight_files.trunk_of(net)) is None
    assert torchvision_name(weight_files.trunk_of(weight_files.small(NET))) is None


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d"])
def test_depth_width_and_groups_are_those_of_the_tensors(name, tmp_path):
    net = weight_files.resnet(name)
    trunk = weight_files.trunk_of(net)
    model = predictor(weight_files.saved(trunk, tmp_path / "a.pth"), device="cpu")
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), weight_files.features(net, images))


def test_size_mean_and_std_can_be_given(file, picture):
    model = predictor(file, size=64, mean=(0.5,) * 3, std=(0.25,) * 3, device="cpu")
    wanted = view(picture, 64, np.full(3, 0.5), np.full(3, 0.25))[0]
    assert (model.transform(picture) - wanted).abs().max() < 2.5 / 255 / 0.25


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {"patch_embed.proj.weight": torch.ones(2, 3, 8, 8)}, "is no ResNet"),
        (lambda t: {**t, "layer1.0.se.fc1.weight": torch.ones(2)}, "with other parts"),
        (
            lambda t: {n: v for n, v in t.items() if "running" not in n},
            "no bn1.running",
        ),
        (lambda t: {**t, "conv1.weight": torch.ones(64, 3, 5, 5)}, "5x5 convolution"),
        (lambda t: {**t, "conv1.weight": torch.ones(64)}, "four dimensions"),
        (
            lambda t: {n.replace("2.1.", "2.2."): v for n, v in t.items()},
            "without a gap",
        ),
        (
            lambda t: {**t, "layer1.0.conv2.weight": torch.ones(64, 48, 3, 3)},
            "which no number of groups explains",
        ),
    ],
)
def test_nets_that_cannot_be_built_are_told(change, words, tmp_path):
    content = change(weight_files.trunk_of(NET))
    path = weight_files.saved(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=words):
        predictor(path, device="cpu")


def test_numbers_as_arrays_and_tensors(file, picture):
    wanted = predictor(file, mean=[0.5, 0.4, 0.3], std=[0.2] * 3, device="cpu")
    found = predictor(
        file,
        mean=np.array([0.5, 0.4, 0.3]),  # pyright: ignore[reportArgumentType]
        std=torch.full((3,), 0.2),  # pyright: ignore[reportArgumentType]
        device="cpu",
    )
    torch.testing.assert_close(found.transform(picture), wanted.transform(picture))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"size": 0}, "size is 0; wanted a whole number"),
        ({"size": -5}, "size is -5"),
        ({"size": (64, 64)}, r"size is \(64, 64\)"),
        ({"mean": [0.5]}, r"mean is \[0.5\]; wanted 3 numbers"),
        ({"mean": 0.5}, "mean is 0.5; wanted 3 numbers"),
        ({"std": [0, 0, 0]}, "wanted 3 numbers above 0"),
        ({"device": "gpu"}, "wanted auto, cpu or cuda"),
        ({"device": "meta"}, "wanted auto, cpu or cuda"),
        ({"device": "cuda:99"}, "torch sees (no GPU|only)"),
    ],
)
@pytest.mark.parametrize("source", ["file", "run"])
def test_what_cannot_be_is_told(source, given, words, request):
    path = request.getfixturevalue(source)
    with pytest.raises((WeightsError, StartError), match=words):
        predictor(path, **{"device": "cpu", **given})


def test_what_is_no_image_is_told(file, tmp_path):
    model = predictor(file, device="cpu")
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match="a.png cannot be read"):
        model(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"\(3, height, width\)"):
        model(torch.randn(1, 8, 8))
    with pytest.raises(TypeError, match="wanted a PIL image"):
        model(3)
    with pytest.raises(UnreadableImage, match="it is a folder"):
        model(tmp_path)
    with pytest.raises(ValueError, match="got no image"):
        model([])
    for batch in (torch.zeros(2, 1, 8, 8), torch.zeros(0, 3, 8, 8)):
        for kind in (torch.float32, torch.uint8):
            with pytest.raises(ValueError, match=r"wanted one or more images of 3 ch"):
                model(batch.to(kind))
    with pytest.raises(OSError, match="gone.png"):
        model(tmp_path / "gone.png")
    with pytest.raises(StartError, match="there is no checkpoint"):
        predictor(tmp_path / "gone.pth")
    with pytest.raises(WeightsError, match="wanted trunk or all"):
        predictor(file, part="head")
