"""The laws of the code base that a syntax tree can show (docs/index.md names them)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vissl_swav"
FILES = sorted(PACKAGE.rglob("*.py"))
HOST_NAMES = {"vissl", "classy_vision", "hydra", "hydra_plugins", "fairscale", "tools"}
MAY_NAME_HOST = {"host", "suite", "conf", "compat", "train.py", "cli.py"}
# Imports point only to the left.
LEFT_OF = {
    "core": {"core"},
    "backends": {"core", "backends"},
    "transforms": {"core", "transforms"},
    "data": {"core", "transforms", "data"},
    "health": {"core", "transforms", "data", "health"},
    "compat": {"core", "compat"},
    "conf": {"conf"},
    "weights": {"core", "compat", "weights"},
    "host": {
        *("core", "backends", "transforms", "data", "health", "compat", "conf", "host"),
        "weights",
    },
}
LEFT_OF["suite"] = LEFT_OF["host"] | {"suite"}


def imported_modules(path):
    """Every module a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path):
    return path.relative_to(PACKAGE).parts[0]


def test_there_is_something_to_check():
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports(path):
    part = part_of(path)
    for module in imported_modules(path):
        root, *rest = module.split(".")
        if part == "core":
            standard = root in sys.stdlib_module_names
            assert standard or root in {"torch", "vissl_swav"}, module
            assert not module.startswith("torch.distributed"), module
        if root in HOST_NAMES:
            assert part in MAY_NAME_HOST, f"{path} names the host: {module}"
        if module.startswith("torch.distributed") or root in {"faiss", "flash_kmeans"}:
            assert part in {"backends", "compat"}, f"{path}: {module}"
        if root == "vissl_swav" and rest and (PACKAGE / rest[0]).is_dir():
            allowed = LEFT_OF.get(part)
            if allowed is not None:
                assert rest[0] in allowed, f"{path} imports to its right: {module}"


def test_core_and_the_package_import_without_the_host():
    program = (
        "import sys\n"
        "for name in ('vissl', 'classy_vision', 'hydra', 'faiss', "
        "'flash_kmeans', 'cv2'):\n"
        "    sys.modules[name] = None\n"
        "import vissl_swav\n"
        "assert 'torch' not in sys.modules, 'the bare package must stay light'\n"
        "import vissl_swav.core.swapped_prediction, vissl_swav.core.feature_queue\n"
        "assert vissl_swav.sinkhorn and vissl_swav.FeatureQueue\n"
        "assert not hasattr(vissl_swav, 'no_such_name')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=120)


def test_every_public_name_resolves():
    import vissl_swav

    for name in vissl_swav.__all__:
        assert getattr(vissl_swav, name) is not None


def test_no_module_is_called_utils():
    names = {path.stem for path in FILES}
    assert not names & {"utils", "util", "misc", "helpers", "common"}


def test_torch_distributed_is_named_by_the_backends_alone():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "distributed":
                assert part_of(path) in {"backends", "compat"}, path


SECTIONS = {
    *("CHECKPOINT", "DATA", "DISTRIBUTED", "HOOKS", "LOSS", "MACHINE", "OPTIMIZER"),
    *("HEALTH", "SLURM", "TRAINER"),
}


def reads_cfg(path):
    """Whether a file looks into a section of the host's config."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in SECTIONS:
            return True
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            if node.slice.value in SECTIONS:
                return True
    return False


def test_cfg_is_read_in_one_place():
    """`host/settings`; the shims, which mend the host's own readers, excepted."""
    readers = [path for path in FILES if reads_cfg(path)]
    places = {path.parent.name for path in readers if part_of(path) != "compat"}
    assert places == {"settings"}
