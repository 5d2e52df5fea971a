"""A file that means harm, ends early or would fill the memory, at every loader."""

import pickle

import cluster_runs
import host_runs
import hostile_files
import numpy as np
import pytest
import torch
import yaml

from vissl_swav.compat import checkpoint_loading
from vissl_swav.data.decoding import EncodedImage, UnreadableImage
from vissl_swav.data.errors import DataError
from vissl_swav.data.image_list import open_images
from vissl_swav.host.errors import StartError

KINDS = ("torch", "legacy", "pickle")
# Nine levels of nine references each: 400 million entries if written out.
GROWING = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return host_runs.make_images(tmp_path_factory.mktemp("safe") / "set", per_class=8)


@pytest.fixture(scope="module")
def run(host, images, tmp_path_factory):
    return cluster_runs.untrained(images, tmp_path_factory.mktemp("safe") / "run")


def hosts_load(path):
    """As VISSL reads a checkpoint to resume from, and MODEL.WEIGHTS_INIT's file."""
    from vissl.utils.checkpoint import CheckpointLoader

    return CheckpointLoader.load_and_broadcast_init_weights(
        str(path), torch.device("cpu")
    )


def assigns_load(path, run):
    from vissl_swav.suite.checkpoint_model import load_model

    return load_model(path, config=run / "train_config.yaml", device="cpu")


def resumes_look(path):
    from vissl_swav.compat.checkpoint_files import fault_of

    fault = fault_of(path)
    if fault is not None:
        raise DataError(f"the checkpoint {path} {fault}")


def loaders(run):
    return {
        "host": hosts_load,
        "resume": resumes_look,
        "assign": lambda path: assigns_load(path, run),
    }


LOADERS = ("host", "resume", "assign")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loader", LOADERS)
def test_no_checkpoint_runs_code(run, tmp_path, loader, kind):
    mark, file = tmp_path / "mark", tmp_path / "model_phase0.torch"
    file.write_bytes(hostile_files.harmful(mark, kind))
    result = hostile_files.opened(loaders(run)[loader], file)
    assert result.error is not None and not mark.exists()
    if kind == "torch":
        assert "mkdir" in str(result.error), "names what the file wants"
        if loader != "resume":
            assert f"{checkpoint_loading.TRUST}=1" in str(result.error)


def test_the_bait_works(tmp_path):
    """Else the tests above would show nothing."""
    for kind in KINDS:
        mark = tmp_path / kind
        file = tmp_path / "file"
        file.write_bytes(hostile_files.harmful(mark, kind))
        if kind == "pickle":
            pickle.loads(file.read_bytes())
        else:
            torch.load(file, weights_only=False)
        assert mark.exists()
    yaml.unsafe_load(hostile_files.harmful(tmp_path / "yaml", "yaml"))
    assert (tmp_path / "yaml").exists()


def test_the_flag_lets_it_through(tmp_path, monkeypatch):
    mark, file = tmp_path / "mark", tmp_path / "file"
    file.write_bytes(hostile_files.harmful(mark))
    for value, trusted in (("0", False), ("1", True)):
        monkeypatch.setenv(checkpoint_loading.TRUST, value)
        result = hostile_files.opened(checkpoint_loading.load_checkpoint, str(file))
        assert (result.error is None) == trusted == mark.exists()


@pytest.mark.parametrize("loader", LOADERS)
def test_a_bomb_is_refused(run, tmp_path, loader):
    file = tmp_path / "model_phase0.torch"
    file.write_bytes(hostile_files.bomb())
    assert file.stat().st_size < 1 << 23
    result = hostile_files.opened(loaders(run)[loader], file)
    assert result.error is not None
    assert "would unpack to" in str(result.error)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_checkpoint_that_ends_early(run, tmp_path, loader, share):
    whole = (run / "checkpoint.torch").read_bytes()
    file = tmp_path / "model_phase0.torch"
    file.write_bytes(whole[: int(share * len(whole))])
    result = hostile_files.opened(loaders(run)[loader], file)
    assert result.error is not None
    assert not isinstance(result.error, (EOFError, KeyError))


def test_a_flipped_bit_of_a_weight_is_seen(run, tmp_path):
    """torch does not look at the checksums of what it reads."""
    whole = bytearray((run / "checkpoint.torch").read_bytes())
    content = torch.load(run / "checkpoint.torch", weights_only=False)
    trunk = content["classy_state_dict"]["base_model"]["model"]["trunk"]
    weight = next(iter(trunk.values())).numpy().tobytes()
    place = bytes(whole).find(weight[:64])
    assert place > 0
    whole[place] ^= 1
    file = tmp_path / "model_phase0.torch"
    file.write_bytes(whole)
    for loader in LOADERS:
        result = hostile_files.opened(loaders(run)[loader], file)
        assert result.error is not None and "checksum" in str(result.error)


def test_nested_containers_take_no_exponential_time(tmp_path, host):
    """A tuple of twice the same tuple, 60 deep, beside an AttrDict."""
    from vissl.config import AttrDict

    nested: object = (1,)
    for _ in range(60):
        nested = (nested, nested)
    torch.save([AttrDict({"a": 1}), nested], tmp_path / "file")
    result = hostile_files.opened(
        checkpoint_loading.load_checkpoint, str(tmp_path / "file")
    )
    assert result.error is None and type(result.value[0]) is AttrDict


@pytest.mark.parametrize("what", ["meta", "complex", "list", "view"])
def test_weights_that_are_no_plain_tensors(run, tmp_path, what):
    content = torch.load(run / "checkpoint.torch", weights_only=False)
    trunk = content["classy_state_dict"]["base_model"]["model"]["trunk"]
    key, value = next(iter(trunk.items()))
    trunk[key] = {
        "meta": value.to("meta"),
        "complex": value.to(torch.complex64),
        "list": [1, 2],
        # A terabyte to whoever looks at every element, four bytes in the file.
        "view": torch.zeros(1).expand(1 << 38),
    }[what]
    torch.save(content, tmp_path / "file.torch")
    result = hostile_files.opened(assigns_load, tmp_path / "file.torch", run)
    assert isinstance(result.error, StartError) and key in str(result.error)


@pytest.mark.parametrize("name", ["list.npy", "list.txt", "shard.tar"])
def test_no_list_runs_code(tmp_path, name):
    mark = tmp_path / "mark"
    for kind in ("npy", "pickle", "torch"):
        (tmp_path / name).write_bytes(hostile_files.harmful(mark, kind))
        result = hostile_files.opened(open_images, tmp_path / name)
        assert isinstance(result.error, DataError) and not mark.exists()


def test_an_array_that_says_it_is_enormous(tmp_path):
    header = b"{'descr': '<U64', 'fortran_order': False, 'shape': (1000000000000,), }"
    header = header.ljust(117) + b"\n"
    length = len(header).to_bytes(2, "little")
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + length + header)
    result = hostile_files.opened(open_images, tmp_path / "a.npy")
    assert isinstance(result.error, DataError)


def test_members_cannot_leave_their_archive(tmp_path):
    """Images are read out of a tar in place: nothing is ever unpacked."""
    good = hostile_files.image_bytes("PNG")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.tar").write_bytes(
        hostile_files.shard({"../../evil.png": good, "/abs/evil2.png": good})
    )
    images = open_images(tmp_path / "in" / "x.tar")
    for index in range(len(images)):
        assert images.read(index).decode().shape == (24, 20, 3)
    assert hostile_files.files_below(tmp_path) == [str(tmp_path / "in" / "x.tar")]


def test_a_users_own_paths_and_links_are_accepted(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.png").write_bytes(hostile_files.image_bytes("PNG"))
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "b.png").symlink_to(tmp_path / "far" / "a.png")
    (tmp_path / "near" / "list.txt").write_text(f"{tmp_path}/far/a.png\n../far/a.png\n")
    for path, count in ((tmp_path / "near", 1), (tmp_path / "near" / "list.txt", 2)):
        images = open_images(path)
        assert len(images) == count
        assert images.read(0).decode().shape == (24, 20, 3)


def test_an_image_of_absurd_size():
    data = hostile_files.image_bomb()
    assert len(data) < 1 << 16
    result = hostile_files.opened(EncodedImage(data, "bomb.png").decode)
    assert isinstance(result.error, UnreadableImage)


def test_a_pickle_is_no_image(tmp_path):
    mark = tmp_path / "mark"
    for kind in ("pickle", "npy", "torch"):
        image = EncodedImage(hostile_files.harmful(mark, kind), "x.png")
        assert isinstance(hostile_files.opened(image.decode).error, UnreadableImage)
    assert not mark.exists()


def test_no_yaml_runs_code(run, tmp_path):
    from vissl_swav.suite.checkpoint_model import read_config

    mark, file = tmp_path / "mark", tmp_path / "train_config.yaml"
    file.write_bytes(hostile_files.harmful(mark, "yaml"))
    assert isinstance(hostile_files.opened(read_config, file).error, StartError)
    assert not mark.exists()


def test_yaml_that_grows(tmp_path):
    from vissl_swav.suite.checkpoint_model import read_config

    file = tmp_path / "train_config.yaml"
    file.write_text(GROWING)
    assert isinstance(hostile_files.opened(read_config, file).error, StartError)
    file.write_text("[" * 100_000)
    assert isinstance(hostile_files.opened(read_config, file).error, StartError)


def test_the_folder_of_a_run_with_a_hostile_config(host, images, run, tmp_path):
    """The start reads the `train_config.yaml` beside checkpoints that are there."""
    from vissl_swav.host import launch, preflight

    folder, mark = tmp_path / "run", tmp_path / "mark"
    folder.mkdir()
    (folder / "model_phase0.torch").write_bytes((run / "checkpoint.torch").read_bytes())
    (folder / "train_config.yaml").write_bytes(hostile_files.harmful(mark, "yaml"))
    _, cfg = launch.compose(cluster_runs.overrides(images, folder))
    result = hostile_files.opened(preflight.check, cfg)
    assert isinstance(result.error, StartError) and not mark.exists()
    assert "train_config.yaml" in str(result.error)


@pytest.mark.parametrize("text", ["[" * 50_000, GROWING, "\xff", "a: b", ""])
def test_the_folder_of_a_run_with_a_config_that_is_none(
    host, images, run, tmp_path, text
):
    from vissl_swav.host import launch, preflight

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model_phase0.torch").write_bytes((run / "checkpoint.torch").read_bytes())
    (folder / "train_config.yaml").write_text(text, encoding="latin-1")
    _, cfg = launch.compose(cluster_runs.overrides(images, folder))
    result = hostile_files.opened(preflight.check, cfg)
    assert isinstance(result.error, StartError)
    assert "train_config.yaml cannot be read" in str(result.error)


@pytest.fixture
def start_from(images, tmp_path, capsys):
    """`start_from(file)` -> code and message of a start with that PARAMS_FILE."""
    from vissl_swav import train

    def start(file):
        folder = tmp_path / "out"
        key = "config.MODEL.WEIGHTS_INIT.PARAMS_FILE"
        overrides = cluster_runs.overrides(images, folder, f"{key}={file}")
        code = train.main(overrides)
        assert not folder.exists(), "a refused start wrote something"
        return code, capsys.readouterr().err

    return start


@pytest.mark.parametrize("kind", ["torch", "legacy"])
def test_hostile_weights_end_the_start_with_one_message(
    host, start_from, tmp_path, kind
):
    mark, file = tmp_path / "mark", tmp_path / "weights.torch"
    file.write_bytes(hostile_files.harmful(mark, kind))
    code, message = start_from(file)
    assert code == 2 and "Traceback" not in message and not mark.exists()
    assert "PARAMS_FILE: Refused to load" in message
    assert "VISSL_SWAV_TRUST_CHECKPOINTS=1" in message and "the command line" in message


def test_broken_weights_end_the_start_with_one_message(host, run, start_from, tmp_path):
    file, good = tmp_path / "weights.torch", (run / "checkpoint.torch").read_bytes()
    mark = tmp_path / "mark"
    for content in (
        *(b"", b"no weights", good[: len(good) // 2], hostile_files.bomb()),
        hostile_files.harmful(mark, "pickle"),
    ):
        file.write_bytes(content)
        code, message = start_from(file)
        assert code == 2 and "Traceback" not in message
        assert "weights.torch" in message and "PARAMS_FILE" in message
    assert not mark.exists()


def test_weights_are_looked_at_without_their_tensors(host, run, tmp_path, monkeypatch):
    """The start reads the pickle; checksums and tensors are left to the run."""
    import zipfile

    from vissl_swav.compat import checkpoint_loading

    read = []
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda archive: read.append(1))
    checkpoint_loading.check_is_data(str(run / "checkpoint.torch"))
    assert not read
    checkpoint_loading.load_checkpoint(str(run / "checkpoint.torch"))
    assert len(read) == 1


def test_a_checkpoint_is_read_through_once(run, tmp_path, monkeypatch):
    """Its checksums are held against it once, not by each of two readers."""
    import zipfile

    from vissl_swav.compat.checkpoint_files import fault_of

    passes, testzip = [], zipfile.ZipFile.testzip
    monkeypatch.setattr(
        zipfile.ZipFile, "testzip", lambda archive: passes.append(1) or testzip(archive)
    )
    state = torch.load(run / "checkpoint.torch", weights_only=False)
    state.update(iteration=3, train_phase_idx=0)
    torch.save(state, tmp_path / "model_phase0.torch")
    assert fault_of(tmp_path / "model_phase0.torch") is None and len(passes) == 1


@pytest.mark.parametrize("loss", ["swav", "deepcluster_v2", "sela_v2"])
def test_queue_and_bank_of_another_shape_or_kind(host, loss):
    """Loaded with an error or a warning that says so, never taken in part."""
    made = build_loss(loss)
    good = made.state_dict()
    names = [key for key, value in good.items() if isinstance(value, torch.Tensor)]
    assert names
    for name in names:
        for other in (
            torch.zeros(7, 3),
            torch.zeros(3, dtype=torch.complex64),
            "text",
            None,
        ):
            state = {**good, name: other}
            result = hostile_files.opened(
                build_loss(loss).load_state_dict,
                state,
                errors=(RuntimeError, ValueError, TypeError, KeyError, AttributeError),
            )
            taken = build_loss(loss).state_dict()[name].shape
            assert result.error is not None or taken == good[name].shape


def build_loss(name):
    from classy_vision.losses import build_loss as build

    from vissl_swav.host.settings import LOSSES

    keys = dict(LOSSES[name].defaults)
    keys.update(num_crops=3, num_prototypes=[5], embedding_dim=4)
    if name == "swav":
        keys.update(queue_length=8, queue_length_per_rank=8)
    else:
        keys.update(num_images=6)
    return build({**keys, "name": name})


def test_array_of_text_is_the_only_array(tmp_path):
    for array in (np.zeros(3), np.array([["a.png"]]), np.array("a.png")):
        np.save(tmp_path / "a.npy", array)
        result = hostile_files.opened(open_images, tmp_path / "a.npy")
        assert isinstance(result.error, DataError)
