"""Every check of the doctor on made-up machines: sound, and broken in one way each."""

import pytest

from vissl_swav.health import doctor, doctor_machine
from vissl_swav.health.doctor import FAIL, OK, WARN, Facts, diagnose
from vissl_swav.health.probes import Answer

CHECKS = [*doctor.CHECKS, *doctor_machine.CHECKS]
GOOD = Answer(0, "works")
BAD = Answer(1, "", "ImportError: broken")
VERSIONS = {
    "vissl": ["0.1.6"],
    "torch": ["2.13.0+cu130"],
    "torchvision": ["0.28.0+cu130"],
    "numpy": ["2.4.6"],
    "hydra-core": ["1.3.8"],
    "faiss-cpu": ["1.15.1"],
    "opencv-python-headless": ["5.0.0"],
}
PROBES = {
    **{name: GOOD for name in ("torch", "torchvision", "vissl", "faiss")},
    "driver": Answer(0, "NVIDIA H200\nNVIDIA H200"),
    "cuda": Answer(0, "2 x NVIDIA H200, CUDA 13.0"),
    **{name: GOOD for name in ("nccl", "gloo0", "gloo1")},
}


def machine(**changes):
    facts = {
        "versions": VERSIONS,
        "probes": PROBES,
        "folder": "runs",
        "free_bytes": 100 * 2**30,
        "shared_bytes": 8 * 2**30,
        "open_files": 65536,
    }
    return Facts(**{**facts, **changes})


def with_versions(**changes):
    """Underscores stand for hyphens; None takes a distribution away."""
    named = {name.replace("_", "-"): version for name, version in changes.items()}
    merged = {**VERSIONS, **{name: [v] for name, v in named.items()}}
    return machine(versions={n: v for n, v in merged.items() if v != [None]})


def with_probes(**changes):
    merged = {**PROBES, **changes}
    return machine(probes={n: a for n, a in merged.items() if a is not None})


def faults(facts):
    return {f.what: f for f in diagnose(facts, CHECKS) if f.level != OK}


def test_a_sound_machine():
    found = diagnose(machine(), CHECKS)
    assert {finding.level for finding in found} == {OK}
    text = " ".join(f"{f.what} {f.text}" for f in found)
    for word in ("torch 2.13.0+cu130", "H200", "works beside torch", "100.0 GiB"):
        assert word in text


@pytest.mark.parametrize(
    ("facts", "level", "what", "said", "cure"),
    [
        (machine(python=(3, 9)), FAIL, "Python", "3.9", "3.10"),
        (with_versions(vissl=None), FAIL, "vissl", "not installed", "--no-deps"),
        (with_versions(vissl="0.1.5"), WARN, "vissl", "0.1.5", "0.1.6"),
        (with_versions(torch=None), FAIL, "torch", "not installed", "pytorch.org"),
        (with_versions(hydra_core=None), FAIL, "hydra-core", "not", ">=1.3,<1.4"),
        (
            with_versions(torchvision="0.27.1"),
            FAIL,
            "torch and torchvision",
            "torch 2.13.0+cu130 goes with torchvision 0.28",
            "torchvision==0.28.*",
        ),
        (
            with_versions(torch="2.13.0+cpu"),
            WARN,
            "torch and torchvision",
            "built for cpu, torchvision for cu130",
            "same index",
        ),
        (
            with_versions(torch="2.3.1", torchvision="0.18.1"),
            FAIL,
            "torch",
            "2.3.1, and vissl_swav needs 2.4",
            "pytorch.org",
        ),
        (
            machine(
                versions={n: v for n, v in VERSIONS.items() if n != "faiss-cpu"}
                | {"faiss-gpu": ["1.15.1"]},
                probes={**PROBES, "faiss": Answer(0, "0")},
            ),
            WARN,
            "faiss",
            "sees no GPU, and torch does",
            "nearest=auto",
        ),
        (with_versions(hydra_core="1.1.2"), FAIL, "hydra-core", "1.1.2", ">=1.3"),
        (with_versions(hydra_core="1.4.0"), WARN, "hydra-core", "1.4.0", ">=1.3"),
        (
            machine(overwritten={"classy-vision": ["classy_vision"]}),
            FAIL,
            "VISSL's own copies",
            "classy-vision",
            "pip uninstall -y classy-vision vissl",
        ),
        (
            machine(apex=("other", "an 'apex' without apex.amp")),
            WARN,
            "apex",
            "without apex.amp; it is treated as absent",
            "pip uninstall -y apex",
        ),
        (
            with_versions(faiss_gpu="1.7.2"),
            FAIL,
            "faiss",
            "both write the package faiss",
            "pip uninstall -y faiss-cpu faiss-gpu",
        ),
        (
            with_probes(faiss=Answer(-11, "", "exit code -11")),
            FAIL,
            "faiss",
            "exit code -11",
            "nearest=torch",
        ),
        (
            with_versions(opencv_python="5.0.0"),
            WARN,
            "OpenCV",
            "share one package",
            "pip install opencv-python-headless",
        ),
        (
            with_versions(opencv_python_headless=None),
            FAIL,
            "OpenCV",
            "not installed",
            "pip install opencv-python-headless",
        ),
        (
            machine(hook=(False, "import hook not installed")),
            WARN,
            "import hook",
            "torch 2.13.0+cu130 refuses the checkpoints",
            "--force-reinstall",
        ),
        (with_probes(torch=BAD), FAIL, "import torch", "broken", "reinstall torch"),
        (
            with_probes(vissl=Answer(None, "", "no answer within the time limit")),
            FAIL,
            "import vissl",
            "no answer within the time limit",
            "--no-deps",
        ),
        (with_probes(torchvision=BAD), WARN, "import torchvision", "shim", "index"),
        (
            with_probes(cuda=Answer(1, "", "torch 2.13.0 sees no device")),
            FAIL,
            "CUDA",
            "2 GPU(s) (NVIDIA H200), but torch cannot use them: torch 2.13.0 sees no",
            "built for CUDA",
        ),
        (with_probes(nccl=BAD), FAIL, "NCCL", "broken", "BACKEND=gloo"),
        (
            with_probes(gloo1=Answer(1, "", "rank 1 of 2 on host a")),
            FAIL,
            "sum over 2 processes",
            "rank 1 of 2 on host a",
            "GLOO_SOCKET_IFNAME",
        ),
        (
            machine(free_bytes=2**30),
            WARN,
            "disk at runs",
            "1.00 GiB free",
            "CHECKPOINT_FREQUENCY",
        ),
        (
            machine(free_bytes="runs cannot be written to"),
            FAIL,
            "disk at runs",
            "cannot be written",
            "--folder",
        ),
        (machine(free_bytes=None), WARN, "disk at runs", "not known", "df -h"),
        (
            machine(shared_bytes=64 * 2**20),
            WARN,
            "shared memory",
            "64 MiB free",
            "--shm-size",
        ),
        (machine(open_files=256), WARN, "open files", "at most 256", "ulimit -n"),
    ],
)
def test_one_thing_is_wrong(facts, level, what, said, cure):
    found = faults(facts)
    assert set(found) == {what}
    assert found[what].level == level
    assert said in found[what].text and cure in found[what].cure


@pytest.mark.parametrize(
    "facts",
    [
        machine(apex=("nvidia", "NVIDIA apex at x")),
        with_versions(faiss_cpu=None),
        with_versions(torch="2.4.0", torchvision="0.19.0", numpy="1.26.4"),
        with_versions(faiss_cpu=None, faiss_gpu="1.15.1"),
        with_versions(torch="2.13.0", torchvision="0.28.0+cu130"),
        with_probes(driver=Answer(None), cuda=Answer(1, "", "no device"), nccl=None),
        with_probes(gloo0=None, gloo1=None, torch=None),
        machine(shared_bytes=None, open_files=None),
    ],
    ids=str,
)
def test_what_is_no_fault(facts):
    assert faults(facts) == {}


def test_an_old_torch_beside_a_new_numpy_is_two_faults():
    found = faults(with_versions(torch="2.1.2", torchvision="0.16.2"))
    assert set(found) == {"torch", "torch and numpy"}
    assert "built for numpy 1, and 2.4.6" in found["torch and numpy"].text
    assert "numpy<2" in found["torch and numpy"].cure


def test_the_torchvision_of_old_torches():
    assert doctor.wanted_torchvision("1.13.1") == (0, 14)
    assert doctor.wanted_torchvision("2.0.1") == (0, 15)
    assert doctor.wanted_torchvision("2.13.0+cpu") == (0, 28)


def test_what_faiss_can_be_used_for():
    gpu = with_versions(faiss_cpu=None, faiss_gpu="1.15.1").versions
    seen = {**PROBES, "faiss": Answer(0, "2")}
    for facts, word in (
        (machine(), "on the CPU only"),
        (machine(versions=gpu, probes=seen), "sees 2 GPU(s)"),
        (with_probes(cuda=BAD, driver=None), "works beside torch"),
    ):
        (line,) = [f for f in diagnose(facts, CHECKS) if f.what == "faiss"]
        assert line.level == OK and line.text.endswith(word)


def test_an_old_torch_without_the_hook_still_loads_checkpoints():
    versions = {**VERSIONS, "torch": ["2.5.1"], "torchvision": ["0.20.1"]}
    found = faults(machine(versions=versions, hook=(False, "switched off")))
    assert "refuses" not in found["import hook"].text


def test_torchvision_that_fails_with_the_host_is_no_mere_warning():
    found = faults(with_probes(torchvision=BAD, vissl=BAD))
    levels = {what: finding.level for what, finding in found.items()}
    assert levels == {"import torchvision": FAIL, "import vissl": FAIL}


def test_a_torch_that_fails_is_not_laid_to_faiss():
    found = faults(with_probes(torch=BAD, faiss=BAD))
    assert set(found) == {"import torch"}


def test_a_check_that_breaks_is_a_line_and_no_end():
    found = faults(with_versions(torch="nightly"))
    assert found["pairs"].level == WARN
    assert "'nightly' is no version" in found["pairs"].text
    assert len(diagnose(with_versions(torch="nightly"), CHECKS)) > 10


def test_an_empty_machine_is_told_what_to_install():
    found = faults(Facts())
    assert {"vissl", "torch", "torchvision", "hydra-core", "OpenCV"} <= set(found)
    assert all(finding.cure for finding in found.values())
