from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.usefixtures("host")


class _Doubling(torch.nn.Module):
    """Stands for a model: one layer's features are the pixels' mean, twice."""

    def forward(self, images):
        mean = images.flatten(1).mean(dim=1, keepdim=True)
        return [mean, torch.cat([mean, -mean], dim=1)]


def _trainer(batches, layers, threshold=-1):
    from vissl.config import AttrDict
    from vissl.trainer.trainer_main import SelfSupervisionTrainer

    model = _Doubling()
    task = SimpleNamespace(
        device=torch.device("cpu"),
        model=model,
        base_model=SimpleNamespace(
            is_fully_frozen_model=lambda: False, is_clustering_model=lambda: False
        ),
        available_splits=["TRAIN"],
        dataloaders={"train": batches},
        prepare_extraction=lambda pin_memory: None,
        init_distributed_data_parallel_model=lambda: None,
    )
    features = {
        "EVAL_MODE_ON": True,
        "FREEZE_TRUNK_ONLY": True,
        "LINEAR_EVAL_FEAT_POOL_OPS_MAP": [[name, ["Identity", []]] for name in layers],
    }
    trainer = SelfSupervisionTrainer.__new__(SelfSupervisionTrainer)
    trainer.task = task
    trainer.cfg = AttrDict(
        {
            "DATA": {"PIN_MEMORY": False},
            "MODEL": {"FEATURE_EVAL_SETTINGS": features},
            "EXTRACT_FEATURES": {"CHUNK_THRESHOLD": threshold},
        }
    )
    return trainer


def _batches():
    return [
        {
            "data": [torch.full((2, 3, 1, 1), float(first))],
            "label": [torch.tensor([first, first + 1])],
            "data_idx": [torch.tensor([first, first + 1])],
        }
        for first in (2, 0, 4)
    ]


@pytest.fixture
def one_process(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("threshold", [-1, 4])
def test_the_hosts_files_are_written_and_merged_by_the_host(
    tmp_path, one_process, threshold
):
    from vissl.utils.misc import merge_features

    folder = tmp_path / "features"
    folder.mkdir()
    trainer = _trainer(_batches(), ["res4", "res5"], threshold)
    trainer.extract(str(folder))
    chunks = {file.name.split("_")[1] for file in folder.iterdir()}
    assert chunks == ({"chunk0"} if threshold < 0 else {"chunk0", "chunk1"})
    merged = merge_features(str(folder), "train", "res5")
    assert merged["inds"].tolist() == [0, 1, 2, 3, 4, 5]
    assert merged["targets"].tolist() == [[0], [1], [2], [3], [4], [5]]
    expected = np.array([[v, -v] for v in (0, 0, 2, 2, 4, 4)], dtype=np.float32)
    assert np.array_equal(merged["features"], expected)
    assert merge_features(str(folder), "train", "res4")["features"].shape == (6, 1)


def test_clusters_need_a_clustering_model(one_process):
    with pytest.raises(ValueError, match="head gives prototype scores"):
        _trainer(_batches(), ["res5"]).extract_clusters()


def test_clusters_are_the_best_prototypes(one_process):
    trainer = _trainer(_batches(), ["res5"])
    trainer.task.base_model.is_clustering_model = lambda: True
    scores = torch.nn.Module()
    # The head's output: [[embeddings, scores]].
    scores.forward = lambda images: [[images, images.flatten(1)[:, :1] * _SIGNS]]
    trainer.task.model = scores
    assert trainer.extract_clusters() == {"TRAIN": {2: 1, 3: 1, 0: 0, 1: 0, 4: 1, 5: 1}}


# Prototype 1 wins for positive pixels; for zero pixels all are equal: the first.
_SIGNS = torch.tensor([[-1.0, 1.0]])


def test_uneven_shards_are_gathered_over_gloo():
    import cpu_extraction_programs
    import gloo

    for sizes, gathered, clusters in gloo.run(cpu_extraction_programs.gather_uneven, 3):
        assert list(sizes) == [1, 2, 3]
        assert [rows.shape[0] for rows in gathered] == [1, 2, 3]
        for rank, rows in enumerate(gathered):
            assert torch.equal(rows, torch.full((rank + 1, 2), float(rank)))
        assert clusters == {10: 1, 20: 2, 21: 2}
