"""The gallery: what stands in it, and that it needs and runs nothing from elsewhere."""

import base64
import io
import json
import os
import re
from html.parser import HTMLParser

import cluster_runs
import host_runs
import pytest
import torch
from PIL import Image

TRICK = "<script>alert(1)</script>\"'.png"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = host_runs.make_images(
        tmp_path_factory.mktemp("images") / "set", per_class=8
    )
    os.rename(folder / "class1" / "0.png", folder / "class1" / TRICK.replace("/", "_"))
    return folder


@pytest.fixture(scope="module")
def run(host, images, tmp_path_factory):
    """Prototypes 1 and 2 point where 0 does; 3 points away from every image."""
    from vissl_swav.data.image_list import open_images
    from vissl_swav.suite.checkpoint_model import load_model
    from vissl_swav.suite.image_views import embed

    folder = cluster_runs.untrained(
        images, tmp_path_factory.mktemp("runs") / "run", clusters=(4,)
    )
    mean = embed(open_images(images), load_model(folder, device="cpu")).features.mean(0)
    state = torch.load(folder / "checkpoint.torch", weights_only=False)
    weight = state["classy_state_dict"]["base_model"]["model"]["heads"][
        "0.prototypes0.weight"
    ]
    with torch.no_grad():
        weight[0] = mean + 0.05 * mean.flip(0)
        weight[1], weight[2], weight[3] = weight[0], mean, -mean
    torch.save(state, folder / "checkpoint.torch")
    return folder


def gallery(images, run, out, *arguments):
    return cluster_runs.command(
        *("gallery", "--images", images, "--checkpoint", run, "-o", out, *arguments)
    )


@pytest.fixture(scope="module")
def made(images, run, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "gallery"
    assert gallery(images, run, out, "--top", 3) == 0
    return out


class Page(HTMLParser):
    """Tags with their attributes, in order."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_the_numbers(made, images):
    (summary,) = json.loads((made / "clusters.json").read_text())
    assert sum(summary["sizes"]) == 16 and summary["num_prototypes"] == 4
    assert 3 in summary["empty"]
    assert all(summary["sizes"][number] == 0 for number in summary["empty"])
    assert [entry[:2] for entry in summary["duplicates"]][0] == [1, 0]
    assert summary["distinct"] == 4 - len(summary["duplicates"])
    assert 0 <= summary["nmi"] <= 1 and 0.5 <= summary["purity"] <= 1


def test_the_page_is_self_contained(made):
    text = (made / "index.html").read_text()
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    pictures = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert pictures and all(
        src.startswith("data:image/jpeg;base64,") for src in pictures
    )
    first = Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2])))
    assert first.size == (72, 72)
    assert "http" not in text and "url(" not in text
    assert "Empty (" in text and "Duplicates (" in text and "NMI with" in text


def test_names_are_text(images, run, tmp_path):
    assert gallery(images, run, tmp_path / "g", "--top", 99) == 0
    page = Page((tmp_path / "g" / "index.html").read_text())
    titles = [attrs["title"] for tag, attrs in page.tags if tag == "img"]
    assert len(titles) == 16
    assert any("<script>alert(1)" in title for title in titles), "escaped, not lost"


def test_the_best_images_come_first(made):
    page = Page((made / "index.html").read_text())
    scores = [
        float(attrs["title"].split()[-1]) for tag, attrs in page.tags if tag == "img"
    ]
    (summary,) = json.loads((made / "clusters.json").read_text())
    for size in sorted(filter(None, summary["sizes"]), reverse=True):
        mine, scores = scores[: min(size, 3)], scores[min(size, 3) :]
        assert mine == sorted(mine, reverse=True)
    assert scores == []


def test_the_picture(made):
    sheet = Image.open(made / "head0.png")
    (summary,) = json.loads((made / "clusters.json").read_text())
    used = 4 - len(summary["empty"])
    assert sheet.format == "PNG" and sheet.height == used * 76
    assert len(sheet.getcolors(1 << 20)) > 100, "there are images on it"


def test_without_labels(images, run, tmp_path):
    assert gallery(images / "class0", run, tmp_path / "g") == 0
    (summary,) = json.loads((tmp_path / "g" / "clusters.json").read_text())
    assert summary["nmi"] is None and summary["purity"] is None
    assert "NMI" not in (tmp_path / "g" / "index.html").read_text()


def test_fewer_clusters_than_there_are(images, run, tmp_path, capsys):
    out = tmp_path / "g"
    assert gallery(images, run, out, "--clusters", 1, "--mode", "sinkhorn") == 0
    text = (out / "index.html").read_text()
    assert "The 1 largest clusters" in text and text.count("class=row>") == 1
    assert re.search(r"head 0: \d of 4 prototypes used", capsys.readouterr().err)


def test_a_file_in_the_way(images, run, tmp_path, capsys):
    (tmp_path / "g").write_text("mine")
    assert gallery(images, run, tmp_path / "g") == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "g").read_text() == "mine"
