"""Found by hydra in every program: adds our configs behind the host's own.

`hydra_plugins` is a namespace package shared with other plugins: no `__init__.py`
there.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class VisslSwavSearchPath(SearchPathPlugin):
    """Makes `config=pretrain/swav/...` compose, also on the host's command line."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Appends: a config of the host is never shadowed."""
        search_path.append(provider="vissl_swav", path="pkg://vissl_swav.conf")
