"""What `apply()` says it did; resuming is tested in `test_checkpoint_writing.py`."""

from vissl_swav import compat


def test_apply_is_idempotent_and_its_line_names_the_shims(host):
    names = compat.apply()
    assert names == compat.apply()
    assert {"checkpoint_loading", "resume", "amp", "cpu_extraction"} <= set(names)
    assert all(name in compat.summary() for name in names)


def test_the_hosts_report_names_us(host):
    from vissl.utils.collect_env import collect_dep_env

    report = dict(collect_dep_env([]))
    assert report["vissl_swav.compat"] == compat.summary()
    assert "apex" in report["vissl_swav"]
    assert "torchvision" in report
