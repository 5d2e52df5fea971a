"""What can be wrong with an installation or a machine, from facts about it.

Every check takes `Facts`, so that tests can give it any machine; `suite.doctor` gathers
those of this one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vissl_swav.health.probes import Answer

OK, WARN, FAIL = "OK", "WARN", "FAIL"
GIB = 2**30
LEAST_DISK, LEAST_SHARED = 5 * GIB, GIB
LEAST_FILES = 1024
LEAST_TORCH = (2, 4)
_OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
_SHOWN = (
    *("vissl", "torch", "torchvision", "numpy", "hydra-core", "omegaconf"),
    *("fvcore", "iopath", "faiss-cpu", "faiss-gpu", "opencv-python-headless"),
)


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        level: `OK`, `WARN` or `FAIL`.
        what: what was looked at.
        text: what was found.
        cure: what to do about it; empty for `OK`.
    """

    level: str
    what: str
    text: str
    cure: str = ""


@dataclass(frozen=True)
class Facts:
    """About a machine and what is installed; `None` where it could not be found out.

    Attributes:
        python: (major, minor).
        versions: normalised distribution name -> versions, several if several.
        overwritten: distribution -> host packages whose files it shares with VISSL.
        apex: "absent", "nvidia" or "other", and where it lies in words.
        hook: state of the import hook: whether it is active, and in words.
        probes: name -> what a program said (`suite.doctor`).
        folder: for checkpoints.
        free_bytes: in that folder, or why it cannot be written to.
        shared_bytes: free in /dev/shm.
        open_files: limit of open files.
    """

    python: tuple[int, int] = (3, 11)
    versions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    overwritten: Mapping[str, Sequence[str]] = field(default_factory=dict)
    apex: tuple[str, str] = ("absent", "no apex")
    hook: tuple[bool, str] = (True, "import hook installed")
    probes: Mapping[str, Answer] = field(default_factory=dict)
    folder: str = "."
    free_bytes: int | str | None = None
    shared_bytes: int | None = None
    open_files: int | None = None

    def version(self, name: str) -> str | None:
        """A distribution's version; None where it is not installed."""
        found = self.versions.get(name)
        return found[0] if found else None


Check = Callable[[Facts], list[Finding]]


def diagnose(facts: Facts, checks: Sequence[Check]) -> list[Finding]:
    """Every check, in the order of the table; one that breaks says so itself."""
    found: list[Finding] = []
    for check in checks:
        try:
            found += check(facts)
        except Exception as error:  # A version string nobody thought of, say.
            found.append(
                Finding(
                    WARN,
                    check.__name__,
                    f"the check failed ({type(error).__name__}: {error})",
                    "please report this line",
                )
            )
    return found


def numbers(version: str) -> tuple[int, int]:
    """(major, minor) of a version; what follows is left out.

    Raises:
        ValueError: it does not start with two numbers.
    """
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        raise ValueError(f"{version!r} is no version")
    return int(match[1]), int(match[2])


def versions(facts: Facts) -> list[Finding]:
    """What is installed, and what must be."""
    listed = [f"{n} {facts.version(n)}" for n in _SHOWN if facts.version(n)]
    found = [Finding(OK, "versions", ", ".join(listed) or "none of ours")]
    if facts.python < (3, 10):
        found.append(
            Finding(
                FAIL,
                "Python",
                f"{facts.python[0]}.{facts.python[1]}",
                "install Python 3.10 or newer",
            )
        )
    for name, cure in (
        ("vissl", "pip install --no-deps vissl==0.1.6"),
        ("torch", "install torch as pytorch.org says for this machine"),
        ("torchvision", "install torchvision from where torch came"),
        ("hydra-core", "pip install 'hydra-core>=1.3,<1.4'"),
    ):
        if facts.version(name) is None:
            found.append(Finding(FAIL, name, "not installed", cure))
    vissl = facts.version("vissl")
    if vissl is not None and vissl != "0.1.6":
        found.append(
            Finding(
                WARN,
                "vissl",
                f"{vissl}, and vissl_swav is made for 0.1.6",
                "pip install --no-deps vissl==0.1.6",
            )
        )
    return found


def oldest_torch(facts: Facts) -> list[Finding]:
    """The checkpoint reader asks torch for what older ones have not."""
    torch = facts.version("torch")
    if torch is None or numbers(torch) >= LEAST_TORCH:
        return []
    least = ".".join(map(str, LEAST_TORCH))
    return [
        Finding(
            FAIL,
            "torch",
            f"{torch}, and vissl_swav needs {least} or newer",
            f"install torch {least} or newer as pytorch.org says for this machine",
        )
    ]


def wanted_torchvision(torch: str) -> tuple[int, int]:
    """The torchvision made for a torch: 1.13 goes with 0.14, 2.0 with 0.15, and on."""
    major, minor = numbers(torch)
    return (0, minor + 1) if major == 1 else (0, minor + 15)


def pairs(facts: Facts) -> list[Finding]:
    """Versions that are known not to go together."""
    found: list[Finding] = []
    torch, vision = facts.version("torch"), facts.version("torchvision")
    if torch and vision:
        wanted = wanted_torchvision(torch)
        if numbers(vision) != wanted:
            found.append(
                Finding(
                    FAIL,
                    "torch and torchvision",
                    f"torch {torch} goes with torchvision {wanted[0]}.{wanted[1]}, "
                    f"and {vision} is installed",
                    f"pip install 'torchvision=={wanted[0]}.{wanted[1]}.*'",
                )
            )
        builds = [v.partition("+")[2] for v in (torch, vision)]
        if all(builds) and builds[0] != builds[1]:
            found.append(
                Finding(
                    WARN,
                    "torch and torchvision",
                    f"torch is built for {builds[0]}, torchvision for {builds[1]}: its "
                    "compiled operators will not load (vissl_swav works around that)",
                    "install both from the same index",
                )
            )
    numpy = facts.version("numpy")
    if torch and numpy and numbers(numpy) >= (2, 0) and numbers(torch) < (2, 3):
        found.append(
            Finding(
                FAIL,
                "torch and numpy",
                f"torch {torch} was built for numpy 1, and {numpy} is installed",
                "pip install 'numpy<2', or torch 2.3 or newer",
            )
        )
    hydra = facts.version("hydra-core")
    if hydra and numbers(hydra) != (1, 3):
        level = FAIL if numbers(hydra) < (1, 3) else WARN
        found.append(
            Finding(
                level,
                "hydra-core",
                f"{hydra}; 1.1 and 1.2 drop overrides of VISSL's configs, others than "
                "1.3 are not tried",
                "pip install 'hydra-core>=1.3,<1.4'",
            )
        )
    return found or [Finding(OK, "versions together", "no pair known to be bad")]


def host_copies(facts: Facts) -> list[Finding]:
    """A second classy-vision or fairscale over those in VISSL's wheel."""
    what = "VISSL's own copies"
    found = [
        Finding(
            FAIL,
            what,
            f"{name} {facts.version(name)} is installed and its files lie over the "
            f"ones in VISSL's wheel ({', '.join(packages) or 'same package'})",
            f"pip uninstall -y {name} vissl && pip install --no-deps vissl==0.1.6",
        )
        for name, packages in facts.overwritten.items()
    ]
    return found or [Finding(OK, what, "no other classy-vision or fairscale")]


def apex(facts: Facts) -> list[Finding]:
    """NVIDIA's, another project of that name, or none, which is fine."""
    kind, where = facts.apex
    if kind != "other":
        return [Finding(OK, "apex", f"{where} (none is needed)")]
    return [
        Finding(
            WARN, "apex", f"{where}; it is treated as absent", "pip uninstall -y apex"
        )
    ]


def faiss(facts: Facts) -> list[Finding]:
    """CPU, GPU, both or none; and whether it lives beside torch."""
    names = [n for n in facts.versions if n.startswith("faiss-")]
    listed = ", ".join(f"{n} {facts.version(n)}" for n in names)
    if not names:
        return [Finding(OK, "faiss", "none (k-means uses torch)")]
    if len(names) > 1:
        return [
            Finding(
                FAIL,
                "faiss",
                f"{listed}: both write the package faiss, and the last one wins",
                f"pip uninstall -y {' '.join(names)}, then install one of them",
            )
        ]
    answer, torch = facts.probes.get("faiss"), facts.probes.get("torch")
    if torch is not None and not torch.ok:
        return [Finding(OK, "faiss", f"{listed}; not tried, since torch fails")]
    if answer is not None and not answer.ok:
        return [
            Finding(
                FAIL,
                "faiss",
                f"{listed} does not work beside torch: {answer.error}",
                "set config.LOSS.deepcluster_v2.nearest=torch, or reinstall faiss; if "
                "two OpenMP libraries clash, take faiss and torch from one source",
            )
        ]
    return [_faiss_on_gpus(facts, listed, is_for_gpus=names[0] != "faiss-cpu")]


def _faiss_on_gpus(facts: Facts, listed: str, *, is_for_gpus: bool) -> Finding:
    """What it can be used for: `auto` needs no faiss, so this is never a failure."""
    works, answer = f"{listed}, works beside torch", facts.probes.get("faiss")
    cuda = facts.probes.get("cuda")
    if answer is None or cuda is None or not cuda.ok:
        return Finding(OK, "faiss", works)
    if not is_for_gpus:
        return Finding(OK, "faiss", f"{works}, on the CPU only")
    if answer.out.strip() == "0":
        return Finding(
            WARN,
            "faiss",
            f"{works}, but sees no GPU, and torch does: nearest=faiss would fail",
            "leave config.LOSS.deepcluster_v2.nearest=auto, or install a faiss-gpu "
            "that is built for this machine's CUDA",
        )
    return Finding(OK, "faiss", f"{works}, sees {answer.out or 'the'} GPU(s)")


def opencv(facts: Facts) -> list[Finding]:
    """Two OpenCV wheels share the package cv2."""
    names = [name for name in _OPENCV if facts.version(name)]
    listed = ", ".join(f"{n} {facts.version(n)}" for n in names)
    if len(names) > 1:
        return [
            Finding(
                WARN,
                "OpenCV",
                f"{listed}: they share one package, parts of both may be in use",
                f"pip uninstall -y {' '.join(names)} && pip install {names[-1]}",
            )
        ]
    if not names:
        return [
            Finding(
                FAIL,
                "OpenCV",
                "not installed; it makes the crops",
                "pip install opencv-python-headless",
            )
        ]
    return [Finding(OK, "OpenCV", listed)]


def hook(facts: Facts) -> list[Finding]:
    """The `.pth` hook, which lets VISSL's own command lines run."""
    active, words = facts.hook
    if active:
        return [Finding(OK, "import hook", words)]
    torch = facts.version("torch")
    strict = torch is not None and numbers(torch) >= (2, 6)
    consequence = "VISSL's own command lines run without vissl_swav" + (
        f", and torch {torch} refuses the checkpoints they load" if strict else ""
    )
    return [
        Finding(
            WARN,
            "import hook",
            f"{words}; {consequence}",
            "pip install --force-reinstall --no-deps vissl_swav, unset "
            "VISSL_SWAV_AUTO; or use vissl-swav train",
        )
    ]


CHECKS: list[Check] = [
    *(versions, oldest_torch, pairs, host_copies, apex, faiss, opencv, hook),
]
