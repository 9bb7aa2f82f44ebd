"""The methods that law-compare can train with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from law_lightning import CoTeachingCallback, L2RWCallback, LAWCallback, MetaWeightNetCallback, WeightingCallback
from law_lightning.weighting import ClassBalancedWeighting, FocalWeighting, MentorNetWeighting, SelfPacedWeighting

_CLEAN = "clean validation data"
#: Every method, with what it needs beside the training data. ``base`` is plain training.
METHODS = {
    "base": "",
    "law": f"{_CLEAN}, in the search",
    "focal": "",
    "class_balanced": "",
    "self_paced": "",
    "mentornet": "",
    "l2rw": _CLEAN,
    "meta_weight_net": _CLEAN,
    "co_teaching": "the rate of wrong labels",
}
#: Weightings, and callbacks of their own.
_CLASSES: dict[str, Callable[..., Any]] = {
    "focal": FocalWeighting,
    "class_balanced": ClassBalancedWeighting,
    "self_paced": SelfPacedWeighting,
    "mentornet": MentorNetWeighting,
    "l2rw": L2RWCallback,
    "meta_weight_net": MetaWeightNetCallback,
    "co_teaching": CoTeachingCallback,
}


def method_callbacks(
    method: str, config: Mapping[str, Any], make_peer: Callable[[], L.LightningModule] | None = None
) -> list[Callback]:
    """Make the callbacks that a method adds to the Trainer of one training.

    Args:
        method: Its name.
        config: The config of law-compare: ``strategy`` and ``law`` for LAW, ``method`` for the others.
        make_peer: Makes co-teaching's second network; None leaves that to its callback.
    """
    if method == "base":
        return []
    if method == "law":
        return [LAWCallback(config["strategy"], mode="apply", **config["law"])]
    options = dict(config["method"].get(method) or {})
    if method == "co_teaching":
        options = {"peer": make_peer and make_peer(), **options}
    if method in ("l2rw", "meta_weight_net", "co_teaching"):
        return [_CLASSES[method](**options)]
    of_callback = {name: options.pop(name) for name in ("num_stages", "warmup_stages") if name in options}
    return [WeightingCallback(_CLASSES[method](**options), **of_callback)]
