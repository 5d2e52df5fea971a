"""Our hooks, joined where the host adds the hooks of a loss.

That place comes before the host's log and checkpoint hooks, so those see the state that
ours have updated. Every hook generator of the host passes through it, the one that
SLURM jobs are always given included.
"""

import logging
import os
from collections.abc import Callable
from typing import Any

from classy_vision.hooks.classy_hook import ClassyHook

from vissl_swav import compat
from vissl_swav.host import settings
from vissl_swav.host.clustering_hook import ClusteringHook
from vissl_swav.host.data_hook import DataHook
from vissl_swav.host.health_hook import HealthHook
from vissl_swav.host.metrics_hook import MetricsHook
from vissl_swav.host.momentum_hook import MomentumHook
from vissl_swav.host.nonfinite_hook import NonFiniteHook
from vissl_swav.host.preemption_hook import PreemptionHook
from vissl_swav.host.prototypes_hook import PrototypesHook
from vissl_swav.host.queue_hook import QueueHook
from vissl_swav.host.settings import health as health_settings
from vissl_swav.host.step_seeds_hook import StepSeedsHook
from vissl_swav.host.terms_hook import TermsHook

# Set by `vissl-swav train`: host runs (a linear probe, say) get the step file as well.
RECORD_STEPS = "VISSL_SWAV_RECORD_STEPS"

AddLossHooks = Callable[[list[ClassyHook], Any, Any], list[ClassyHook]]


def hooks_of(cfg: Any) -> list[ClassyHook]:
    """The hooks that this run needs of ours."""
    ours = settings.is_ours(cfg)
    hooks: list[ClassyHook] = []
    if settings.is_sum(cfg):
        hooks.append(TermsHook())
    if ours:
        if settings.has_prototypes(cfg):
            state = ClusteringHook() if settings.clusters(cfg) else QueueHook()
            hooks += [state, PrototypesHook()]
        if settings.follows_by_momentum(cfg):
            hooks.append(MomentumHook())
        if health_settings.watches_health(cfg):
            hooks += [NonFiniteHook(), HealthHook()]
    if settings.is_dino_sinkhorn(cfg):
        from vissl.hooks.dino_hooks import DINOHook

        hooks.append(DINOHook())
    if settings.measures_data(cfg):
        hooks.append(DataHook())
    trains = ours or settings.is_dino_sinkhorn(cfg)
    if trains or os.environ.get(RECORD_STEPS) == "1":
        hooks.append(MetricsHook())
    if trains:
        # Last: what the others do in a step is done, and drawn, by then.
        hooks += [StepSeedsHook(), PreemptionHook()]
    return hooks


def with_our_hooks(add_loss_hooks: AddLossHooks) -> AddLossHooks:
    """The host's `add_loss_hooks`, with ours before what it adds."""

    def add(hooks: list[ClassyHook], loss_cfg: Any, cfg: Any) -> list[ClassyHook]:
        logging.info(compat.summary())
        hooks.extend(hooks_of(cfg))
        return add_loss_hooks(hooks, loss_cfg, cfg)

    return add
