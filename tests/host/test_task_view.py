"""The law of one reach: only `host/task_view.py` looks into a task of the host."""

import ast
from pathlib import Path

HOST = Path(__file__).resolve().parents[2] / "vissl_swav" / "host"
# What wraps the host's own code is handed a task before there is anything to view.
WRAPPERS = {"registration.py", "multi_crop_train_step.py", "process_group.py"}


def reaches(path):
    """Attributes that a file takes of a name `task`, or of `something._task`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            of = node.value
            if isinstance(of, ast.Name) and of.id == "task":
                yield node.attr
            if isinstance(of, ast.Attribute) and of.attr == "_task":
                yield node.attr


def test_there_is_one_reach_into_a_task():
    found = {path.name for path in HOST.glob("*.py") if any(reaches(path))}
    assert "task_view.py" in found, "the search finds what it looks for"
    assert found - WRAPPERS == {"task_view.py"}
