"""Packaging of vissl_swav. Tool settings live in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "([^"]+)"',
    (ROOT / "vissl_swav" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
).group(1)
# What the files of `examples/` import beside this package.
EXAMPLES = ["pytorch-lightning>=2.4", "lightly>=1.5", "timm>=1", "datasets>=3"]


class BuildWithStartupHook(build_py):
    """Puts `vissl_swav.pth` at the root of site-packages, editable installs included.

    The file arms the lazy import hook (`vissl_swav/compat/startup.py`) that lets the
    host's own command lines know this package.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            target = self.get_finalized_command("install").install_purelib
        else:
            target = self.build_lib
        self.mkpath(target)
        self.copy_file(str(ROOT / "vissl_swav.pth"), target)


setup(
    name="vissl_swav",
    version=VERSION,
    description="SwAV, DeepCluster-v2, SeLa-v2 and multi-crop for VISSL",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_namespace_packages(include=["vissl_swav*", "hydra_plugins*"]),
    package_dir={"": "."},
    package_data={
        "vissl_swav": ["py.typed"],
        "vissl_swav.conf": ["config/**/*.yaml"],
    },
    cmdclass={"build_py": BuildWithStartupHook},
    # VISSL 0.1.6 is not here: its pins cannot be met on today's Python. What it
    # imports at run time is; the README's second line installs VISSL itself.
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "numpy",
        "pillow",
        "opencv-python-headless>=4.11",
        "scipy",
        "scikit-learn",
        "joblib>=1.3",
        "hydra-core>=1.3,<1.4",
        "omegaconf>=2.3",
        "fvcore",
        "iopath",
        "tabulate",
        "submitit",
        "parameterized",
        "tensorboard",
        "matplotlib",
        "rich",
        "safetensors",
    ],
    extras_require={
        # Both own the module `faiss`: install one of them, or neither.
        "cpu": ["faiss-cpu>=1.8"],
        "gpu": ["faiss-gpu>=1.15"],
        "onnx": ["onnx", "onnxscript", "onnxruntime"],
        "examples": EXAMPLES,
        "dev": [
            *EXAMPLES,
            "pytest>=8",
            "pytest-timeout",
            "pytest-xdist",
            "ruff==0.17.5",
            "pyright[nodejs]==1.1.414",
            "pre-commit",
            "POT",
            "setuptools>=77",
            "wheel",
        ],
    },
    entry_points={"console_scripts": ["vissl-swav=vissl_swav.cli:main"]},
)
