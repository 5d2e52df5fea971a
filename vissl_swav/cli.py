"""The command `vissl-swav`."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from vissl_swav import __version__
from vissl_swav.compat import startup
from vissl_swav.suite import (
    cluster_arguments,
    data_arguments,
    export_arguments,
    feature_arguments,
    quickstart_arguments,
    report_arguments,
    table_arguments,
)

# Commands whose module takes the parsed options.
_MODULES = {
    **{name: name for name in ("assign", "export", "gallery", "report", "table")},
    **feature_arguments.MODULES,
    "data": "get_data",
}

if sys.argv[1:2] != ["doctor"]:
    # At the top, since spawned children re-import the console script's modules. Doctor
    # spawns none, and must speak where torch or VISSL cannot be imported.
    from vissl_swav import train


def version_text() -> str:
    """Versions of this package and of what it runs on, and the state of the hook."""
    lines = [f"vissl_swav {__version__} ({startup.status()})"]
    for name in (
        "vissl",
        "torch",
        "torchvision",
        "hydra-core",
        "faiss-cpu",
        "faiss-gpu",
    ):
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name}: not installed")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Arguments of every command but `train`, whose overrides pass through."""
    top = argparse.ArgumentParser(prog="vissl-swav", description=__doc__)
    top.add_argument("--version", action="store_true", help="versions, import hook")
    commands = top.add_subparsers(dest="command")
    commands.add_parser(
        "train",
        help="train through VISSL: config=pretrain/swav/... key=value ...",
        add_help=False,
    )
    commands.add_parser(
        "plan",
        help="what a run amounts to, before it runs: config=... key=value ... "
        "[images=N]",
        add_help=False,
    )
    quickstart_arguments.add_command(commands)
    data_arguments.add_check_command(commands)
    doctor = commands.add_parser(
        "doctor",
        help="what is wrong with this installation and machine, and the cure",
        description="Exit code 1 if something fails.",
    )
    doctor.add_argument("--folder", default=".", help="of the checkpoints to come")
    cluster_arguments.add_commands(commands)
    feature_arguments.add_commands(commands)
    data_arguments.add_command(commands)
    export_arguments.add_command(commands)
    report_arguments.add_command(commands)
    table_arguments.add_command(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code (2 for bad input)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] == "train":
        return train.main(given[1:])
    if given and given[0] == "plan":
        from vissl_swav.suite import plan

        return plan.main(given[1:])
    options = parser().parse_args(given)
    if options.version:
        print(version_text())
        return 0
    if options.command is None:
        parser().print_help(sys.stderr)
        return 2
    if options.command == "doctor":
        from vissl_swav.suite import doctor

        return doctor.main(options)
    if options.command == "data-check":
        from vissl_swav.suite import data_check

        return data_check.main(options)
    if options.command in _MODULES:
        module = _MODULES[options.command]
        return import_module(f"vissl_swav.suite.{module}").main(options)
    from vissl_swav.suite import quickstart

    return quickstart.main(options)


if __name__ == "__main__":
    sys.exit(main())
