"""Settings of `LOSS.weighted_sum`: a loss of ours with prototypes and others.

    LOSS:
      name: weighted_sum
      weighted_sum:
        terms:
          - {name: swav, weight: 1.0}
          - {name: simclr_info_nce_loss, weight: 0.5}

Each loss keeps its own section below `LOSS`, ours and the host's. Our term with
prototypes takes the whole output of `swav_head`, and our hooks follow it as if it were
the run's loss. Every other term takes one output, number `output` (0: the embeddings;
1, 2, ...: the scores of prototype head 0, 1, ...), of the crops `crops` (null: all),
and their targets.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vissl_swav.host.errors import StartError
from vissl_swav.host.settings import parts
from vissl_swav.host.settings.losses import DINO_SINKHORN, LOSSES

WEIGHTED_SUM = "weighted_sum"
KEYS = ("terms",)
_TERMS_KEY = f"config.LOSS.{WEIGHTED_SUM}.terms"
_OF_OURS = ("name", "weight")
_OF_OTHERS = (*_OF_OURS, "output", "crops")
# Losses that compare the first half of their rows with the second.
_OF_TWO_CROPS = ("simclr_info_nce_loss", "barlow_twins_loss")
_HOOKED = "its hook looks for a momentum encoder at the run's own loss"
# VISSL counts and masks its pairs for all crops of the transform.
_OF_ALL_CROPS = ("multicrop_simclr_info_nce_loss",)
# Losses that compare classes, not images, with what is scored.
_OF_LABELS = (
    "cross_entropy_multiple_output_single_target",
    "bce_logits_multiple_output_single_target",
    "label_smoothing_cross_entropy",
    "soft_target_cross_entropy",
    "sum_cross_entropy",
)
# Why a loss cannot stand in a sum.
_REFUSED = {
    "moco_loss": _HOOKED,
    "dino_loss": _HOOKED,
    DINO_SINKHORN: _HOOKED,
    "swav_loss": "ours stands for it: swav",
    "swav_momentum_loss": "ours stands for it: swav_momentum",
    "deepclusterv2_loss": "ours stands for it: deepcluster_v2",
    "nce_loss_with_memory": "VISSL sizes its memory for the run's own loss alone",
    WEIGHTED_SUM: "a sum holds no sum: give all terms in one list",
}

HostInfer = Callable[[Any], Any]


def is_sum(cfg: Mapping[str, Any]) -> bool:
    """Whether the run's loss is a weighted sum."""
    return cfg["LOSS"]["name"] == WEIGHTED_SUM


def term_names(cfg: Mapping[str, Any]) -> list[str]:
    """Losses of the run: the terms of a sum, else the one."""
    if not is_sum(cfg):
        return [cfg["LOSS"]["name"]]
    return [term["name"] for term in cfg["LOSS"][WEIGHTED_SUM]["terms"]]


def followed_loss(cfg: Mapping[str, Any]) -> str:
    """The loss that our hooks follow: `LOSS.name`, or of a sum the term of ours."""
    names = term_names(cfg)
    return next(filter(_leads, names), names[0])


def other_terms_of_ours(cfg: Any) -> Iterator[tuple[str, Sequence[int] | None]]:
    """Name and crops of the terms of ours that no hook follows."""
    for term in cfg.LOSS[WEIGHTED_SUM].terms:
        if term["name"] in LOSSES and not _leads(term["name"]):
            yield term["name"], term["crops"]


def _leads(name: str) -> bool:
    """Whether a loss is ours and scores prototypes: our hooks follow it."""
    return name in LOSSES and LOSSES[name].has_prototypes


def infer_hosts_terms(cfg: Any, host_infer: HostInfer) -> Any:
    """The host's inference, which goes by `LOSS.name`, for each term of the host's too.

    Raises:
        StartError: a term that cannot be.
    """
    if is_sum(cfg):
        check_terms(cfg)
        try:
            for name in term_names(cfg):
                cfg.LOSS.name = name
                host_infer(cfg)
        finally:
            cfg.LOSS.name = WEIGHTED_SUM
    return host_infer(cfg)


def check_terms(cfg: Any) -> None:
    """Names, weights and keys of the terms, by themselves.

    Raises:
        StartError: the first term that cannot be, and how to mend it.
    """
    section = dict(cfg.LOSS.get(WEIGHTED_SUM) or {})
    section.pop("name", None)
    parts.check_keys(section, KEYS, f"config.LOSS.{WEIGHTED_SUM}")
    terms = section.get("terms")
    if not isinstance(terms, list) or len(terms) < 2:
        raise _error(
            f"is {terms!r}; wanted a list of two terms at least, "
            "[{name:swav,weight:1.0},{name:simclr_info_nce_loss,weight:0.5}], say"
        )
    for place, term in enumerate(terms):
        _check_term(cfg, place, term)
    names = [term["name"] for term in terms]
    leading = list(filter(_leads, names))
    if len(leading) != 1:
        raise _error(
            f"has {leading or 'none'} of our losses with prototypes; wanted exactly "
            f"one of {', '.join(filter(_leads, LOSSES))}: the prototypes of the head "
            "are its own"
        )
    if len(set(names)) < len(names):
        raise _error(f"names a loss twice ({names}); give each once, with one weight")


def complete_sum(cfg: Any) -> None:
    """Fills in outputs and crops of the terms, in place; the rest is inferred by now.

    Raises:
        StartError: an output or a crop that there is not, or another width.
    """
    section = cfg.LOSS[followed_loss(cfg)]
    counts = section["num_crops"], len(section["num_prototypes"])
    for place, term in enumerate(cfg.LOSS[WEIGHTED_SUM].terms):
        if _leads(term["name"]):
            continue
        two = term["name"] in _OF_TWO_CROPS
        term.setdefault("output", 0)
        term.setdefault("crops", [0, 1] if two else None)
        _check_output(place, term, counts)
        if term["name"] in _OF_ALL_CROPS and term["crops"] is not None:
            raise _error(
                f"[{place}].crops is {term['crops']}, but {term['name']} takes all "
                "crops; leave crops out, or take simclr_multicrop, ours, for some"
            )
        if two and len(term["crops"] or range(counts[0])) != 2:
            raise _error(
                f"[{place}].crops is {term['crops']} of {counts[0]} crops; "
                f"{term['name']} compares two: [0,1], say"
            )
        if term["name"] not in LOSSES:
            _check_width(cfg, term["name"], term["output"], section)


def take_terms(cfg: Any) -> None:
    """Puts the sections of the terms where the host's `build_loss` finds them."""
    if is_sum(cfg):
        section = cfg.LOSS[WEIGHTED_SUM]
        section["losses"] = {name: cfg.LOSS[name] for name in term_names(cfg)}
        section["num_crops"] = cfg.LOSS[followed_loss(cfg)]["num_crops"]


def _check_term(cfg: Any, place: int, term: Any) -> None:
    import vissl.losses  # noqa: F401  # fills the registry
    from classy_vision.losses import LOSS_REGISTRY

    if not isinstance(term, Mapping) or not isinstance(term.get("name"), str):
        raise _error(
            f"[{place}] is {term!r}; wanted a mapping with name and weight, "
            "{name:swav,weight:1.0}, say"
        )
    name = term["name"]
    if name in _REFUSED:
        raise _error(
            f"[{place}] is {name}, which cannot stand in a sum: {_REFUSED[name]}"
        )
    if name not in LOSSES and name not in LOSS_REGISTRY:
        near = parts.nearest(name, [*LOSSES, *LOSS_REGISTRY])
        raise _error(
            f"[{place}].name is {name!r}, no loss of VISSL's or vissl_swav's{near}"
        )
    if name not in LOSSES and name not in cfg.LOSS:
        raise _error(
            f"[{place}] is {name}, but config.LOSS.{name} is not there; give the loss "
            "a section of its own (empty where it has no keys: {})"
        )
    labels = cfg.DATA.TRAIN.LABEL_TYPE
    if name in _OF_LABELS and labels != "standard":
        raise _error(
            f"[{place}] is {name}, which learns classes, and config.DATA.TRAIN."
            f"LABEL_TYPE is {labels}: every image a class of its own. Set it to "
            "standard, and LABEL_SOURCES with it (disk_folder for class folders)"
        )
    valid = _OF_OURS if _leads(name) else _OF_OTHERS
    parts.check_keys(term, valid, f"{_TERMS_KEY}[{place}]", key=_TERMS_KEY)
    weight = term.get("weight")
    number = weight if isinstance(weight, (int, float)) else 0
    if isinstance(weight, bool) or not 0 < number < math.inf:
        raise _error(
            f"[{place}], {name}, has weight {weight!r}; wanted a number > 0 (leave the "
            "term out where it is not wanted)"
        )


def _check_output(place: int, term: Mapping[str, Any], counts: Sequence[int]) -> None:
    num_crops, num_heads = counts
    output, crops = term["output"], term["crops"]
    if type(output) is not int or not 0 <= output <= num_heads:
        raise _error(
            f"[{place}].output is {output!r}; wanted 0 for the embeddings, or 1 to "
            f"{num_heads} for the scores of a prototype head"
        )
    if crops is None:
        return
    is_list = isinstance(crops, list) and bool(crops)
    known = is_list and all(type(c) is int and 0 <= c < num_crops for c in crops)
    if not known or len(set(crops)) < len(crops):
        raise _error(
            f"[{place}].crops is {crops!r}; wanted a list of distinct crops of 0 to "
            f"{num_crops - 1}, or null for all"
        )


def _check_width(cfg: Any, name: str, output: int, ours: Mapping[str, Any]) -> None:
    """The host asserts it in the first step only, and without a name.

    Args:
        cfg: the host's config.
        name: of the term.
        output: of the head that it takes.
        ours: the section of our term, which knows the head.
    """
    width, what = ours["embedding_dim"], "the embeddings of the head have"
    if output:
        width = ours["num_prototypes"][output - 1]
        what = f"output {output}, the scores of a prototype head, has"
    section = cfg.LOSS[name]
    where = f"config.LOSS.{name}"
    if "buffer_params" in section:
        section, where = section["buffer_params"], f"{where}.buffer_params"
    given = section.get("embedding_dim")
    if given is not None and given != width:
        key = f"{where}.embedding_dim"
        raise StartError(
            f"{key} is {given}, but {what} {width} numbers; set {key}={width}.",
            key=key,
        )


def _error(what: str) -> StartError:
    return StartError(
        f"{_TERMS_KEY}{'' if what[0] == '[' else ' '}{what}.", key=_TERMS_KEY
    )
