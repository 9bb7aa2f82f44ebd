"""The methods that law-compare and law-train can train with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Callback

from law_lightning import CoTeachingCallback, L2RWCallback, LAWCallback, MetaWeightNetCallback, WeightingCallback
from law_lightning.weighting import (
    BaseWeighting,
    ClassBalancedWeighting,
    FocalWeighting,
    MentorNetWeighting,
    SelfPacedWeighting,
)

CLEAN = "clean validation data"
RATE = "the rate of wrong labels"


@dataclass(frozen=True)
class Method:
    """A way to train.

    Attributes:
        make: makes the callbacks that it adds to a Trainer, anew for each training.
        told: what it is told beside the training data, for the table.
    """

    make: Callable[[], list[Callback]]
    told: str = ""


def law(strategy: Path, options: dict[str, Any], mode: Literal["apply", "search"] = "apply") -> LAWCallback:
    """The callback of one training with a strategy.

    Args:
        strategy: Its file.
        options: Further arguments of LAWCallback.
        mode: "apply"; or "search" to train the reference too, for its loss and accuracy. The strategy is the same in
            both: it neither explores nor learns.
    """
    if mode == "search":
        options = options | {"explore": False, "learn": False, "keep": "target"}
    return LAWCallback(str(strategy), mode=mode, **options)


def _weigh(weighting: type[BaseWeighting], given: dict[str, Any]) -> list[Callback]:
    """A weighting in its callback, which some of the options are for."""
    of_callback = {name: given[name] for name in ("num_stages", "warmup_stages") if name in given}
    options = {name: value for name, value in given.items() if name not in of_callback}
    return [WeightingCallback(weighting(**options), **of_callback)]


def method_table(
    strategy: Path | None,
    law_options: dict[str, Any],
    options: dict[str, dict[str, Any]],
    make_peer: Callable[[], L.LightningModule] | None = None,
) -> dict[str, Method]:
    """Every method by its name: ``base`` is plain training, ``law`` weights with the strategy.

    Args:
        strategy: the file of LAW's; None where LAW is not among the methods.
        law_options: further arguments of LAWCallback.
        options: arguments of the other methods, by name.
        make_peer: makes co-teaching's second network; None leaves that to its callback.
    """

    def law_callbacks() -> list[Callback]:
        assert strategy is not None
        return [law(strategy, law_options)]

    def co_teaching() -> list[Callback]:
        peer = None if make_peer is None else make_peer()
        return [CoTeachingCallback(**{"peer": peer, **given("co_teaching")})]

    def given(name: str) -> dict[str, Any]:
        return dict(options.get(name) or {})

    return {
        "base": Method(list),
        "law": Method(law_callbacks, f"{CLEAN}, in the search"),
        "focal": Method(lambda: _weigh(FocalWeighting, given("focal"))),
        "class_balanced": Method(lambda: _weigh(ClassBalancedWeighting, given("class_balanced"))),
        "self_paced": Method(lambda: _weigh(SelfPacedWeighting, given("self_paced"))),
        "mentornet": Method(lambda: _weigh(MentorNetWeighting, given("mentornet"))),
        "l2rw": Method(lambda: [L2RWCallback(**given("l2rw"))], CLEAN),
        "meta_weight_net": Method(lambda: [MetaWeightNetCallback(**given("meta_weight_net"))], CLEAN),
        "co_teaching": Method(co_teaching, RATE),
    }
