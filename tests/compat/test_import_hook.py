import importlib
import sys
import threading

import pytest

from vissl_swav.compat import import_hook


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `compat_fake` with a module `part` that counts how often it runs."""
    folder = tmp_path / "compat_fake"
    folder.mkdir()
    (folder / "__init__.py").write_text("import sys\nseen = sys.compat_events[:]\n")
    (folder / "part.py").write_text("VALUE = 1\n")
    (folder / "user.py").write_text("from compat_fake.part import VALUE\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "compat_events", [], raising=False)
    finder = import_hook._Finder()
    monkeypatch.setattr(import_hook, "_FINDER", finder)
    yield sys.compat_events
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)
    for name in [n for n in sys.modules if n.startswith("compat_fake")]:
        del sys.modules[name]


def _set_to_two(module):
    module.VALUE = 2


def test_before_runs_once_and_before_the_packages_own_code(package):
    import_hook.before_import(
        ("compat_fake", "compat_other"), lambda: package.append("x"), key="k"
    )
    assert package == []
    assert importlib.import_module("compat_fake").seen == ["x"]
    importlib.import_module("compat_fake.part")
    assert package == ["x"]


def test_looking_for_the_package_does_not_count_as_importing_it(package):
    import_hook.before_import(("compat_fake",), lambda: package.append("x"), key="k")
    assert importlib.util.find_spec("compat_fake") is not None
    assert package == []


def test_after_patches_before_anybody_reads_the_name(package):
    import_hook.after_import("compat_fake.part", _set_to_two)
    assert "compat_fake" not in sys.modules
    assert importlib.import_module("compat_fake.user").VALUE == 2


def test_after_an_import_patches_at_once_and_a_reload_again(package):
    part = importlib.import_module("compat_fake.part")
    import_hook.after_import("compat_fake.part", _set_to_two)
    assert part.VALUE == 2
    assert importlib.reload(part).VALUE == 2


def test_arming_twice_calls_once(package):
    for _ in range(2):
        import_hook.after_import(
            "compat_fake.part", lambda module: package.append("y"), key="same"
        )
        import_hook.before_import(
            ("compat_fake",), lambda: package.append("x"), key="same"
        )
    importlib.import_module("compat_fake.part")
    assert package == ["x", "y"]


def test_the_loader_is_the_hosts_own_again(package):
    import_hook.after_import("compat_fake.part", _set_to_two)
    loader = importlib.import_module("compat_fake.part").__loader__
    assert type(loader).__name__ == "SourceFileLoader"
    assert "exec_module" not in vars(loader)


def test_the_finder_comes_first_again_when_something_is_armed(package):
    import_hook.after_import("compat_fake.part", _set_to_two)
    ours, others = sys.meta_path[0], sys.meta_path[1:]
    sys.meta_path[:] = [*others, ours]
    import_hook.after_import("compat_fake.user", _set_to_two)
    assert sys.meta_path == [ours, *others]


def test_a_failing_callback_is_reported_and_the_import_can_be_tried_again(package):
    failures = [ValueError("no such thing")]

    def fail_once():
        if failures:
            raise failures.pop()
        package.append("x")

    import_hook.before_import(("compat_fake",), fail_once, key="k")
    with pytest.raises(import_hook.HostPatchError, match="k failed with ValueError"):
        importlib.import_module("compat_fake")
    assert importlib.import_module("compat_fake").seen == ["x"]


def test_threads_importing_together_call_once(package):
    import_hook.after_import(
        "compat_fake.part", lambda module: package.append("y"), key="k"
    )
    threads = [
        threading.Thread(target=importlib.import_module, args=("compat_fake.user",))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert package == ["y"]
