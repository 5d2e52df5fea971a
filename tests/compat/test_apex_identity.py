import logging
import sys
from types import ModuleType

import pytest

from vissl_swav.compat import apex_identity, larc, sync_bn


@pytest.fixture
def install_apex(tmp_path, monkeypatch):
    """Put an `apex` with the given subpackages on the path."""
    monkeypatch.delitem(sys.modules, "apex", raising=False)

    def install(*subpackages):
        for folder in (
            tmp_path / "apex",
            *(tmp_path / "apex" / s for s in subpackages),
        ):
            folder.mkdir()
            (folder / "__init__.py").write_text("raise SystemExit('was imported')\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


def test_without_any_apex(monkeypatch):
    monkeypatch.setitem(sys.modules, "apex", None)
    assert not apex_identity.is_nvidia_apex()
    assert apex_identity.describe() == "no apex"
    assert not apex_identity.needed()
    assert larc.needed() and sync_bn.needed()


def test_nvidias_is_known_without_importing_it(install_apex):
    install_apex("amp", "parallel")
    assert apex_identity.is_nvidia_apex()
    assert apex_identity.describe().startswith("NVIDIA apex at ")
    assert not apex_identity.needed()
    assert not larc.needed() and not sync_bn.needed()


@pytest.mark.parametrize("subpackages", [(), ("lib",), ("amp",)])
def test_another_project_is_named_and_treated_as_absent(
    install_apex, subpackages, caplog, monkeypatch
):
    install_apex(*subpackages)
    monkeypatch.setattr(apex_identity, "after_import", lambda *arguments: None)
    with caplog.at_level(logging.WARNING, logger="vissl_swav.compat"):
        apex_identity.apply()
    assert not apex_identity.is_nvidia_apex()
    assert "apex.parallel" in caplog.text
    assert "PyPI" in caplog.text
    assert "pip uninstall apex" in caplog.text
    assert larc.needed() and sync_bn.needed()


def test_the_hosts_three_flags_say_no():
    vissl, classy = ModuleType("misc"), ModuleType("util")
    vissl.is_apex_available = lambda: True
    classy.apex_available = True
    apex_identity.deny_in_vissl(vissl)
    apex_identity.deny_in_classy(classy)
    assert vissl.is_apex_available() is False
    assert classy.apex_available is False
