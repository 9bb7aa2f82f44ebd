"""Weights of right and of wrong labels, where the true labels are known: for analysis only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from law_lightning._compat import to_device
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.capture.samples import Samples
from law_lightning.second_network.duplicate import duplicate
from law_lightning.utilities.randomness import replaying
from law_lightning.weighting.base import BaseWeighting, Weighting

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the weights of right and of wrong labels, as recorded."""


def truth_loader(trainer: L.Trainer) -> Any:
    """The loader of the data module that knows which labels are wrong: batches ``(batch, wrong)``, wrong bool [B].

    Raises:
        MisconfigurationException: there is none, or no label is wrong.
    """
    make = getattr(getattr(trainer, "datamodule", None), "analysis_dataloader", None)
    loader = None if make is None else make()
    if loader is None:
        raise MisconfigurationException(
            "analyse_labels=True needs to know which training labels are wrong: fit with a data module that has a "
            "corruption of labels, or one of your own whose analysis_dataloader() gives batches (batch, wrong), wrong "
            "being a bool for each sample; or leave analyse_labels out."
        )
    return loader


def weights_by_label(
    trainer: L.Trainer,
    module: L.LightningModule,
    weigh: Callable[[Samples], Tensor | None],
    weighting: Weighting,
    loader: Any,
) -> dict[str, Any]:
    """The mean weight of samples whose label is right, and of those whose label is wrong.

    A pass over the training data (``loader``, see :func:`truth_loader`) with a copy of the network, in evaluation mode.
    Nothing of the training changes: ``weighting``, which ``weigh`` calls, gets its state back.

    Returns:
        ``weight_clean`` and ``weight_wrong``, and their ``weight_clean_quantiles`` and ``weight_wrong_quantiles``
        (:data:`QUANTILES`); None where there is no such sample.
    """
    found: dict[str, list[Tensor]] = {"clean": [], "wrong": []}
    stateful = weighting if isinstance(weighting, BaseWeighting) else BaseWeighting()
    before = stateful.state_dict()
    with replaying(), torch.no_grad():
        twin = duplicate(trainer, module).eval()
        takes_index = is_param_in_hook_signature(twin.training_step, "batch_idx", min_args=2)
        for batch_idx, (batch, wrong) in enumerate(loader):
            arguments = [to_device(trainer, twin, batch), *[batch_idx] * takes_index]
            with trainer.precision_plugin.train_step_context(), LossCapture(training=False) as capture:
                capture.take_output(twin.training_step(*arguments))
            weights = weigh(capture.samples[0])
            weights = torch.ones(len(wrong)) if weights is None else weights.double().cpu()
            found["clean"].append(weights[~wrong].double())
            found["wrong"].append(weights[wrong].double())
    stateful.load_state_dict(before)
    numbers: dict[str, Any] = {}
    for name, parts in found.items():
        of_label = torch.cat(parts)
        known = len(of_label) > 0
        numbers[f"weight_{name}"] = float(of_label.mean()) if known else None
        # Of numpy: torch.quantile takes 2^24 numbers at most.
        numbers[f"weight_{name}_quantiles"] = np.quantile(of_label.numpy(), QUANTILES).tolist() if known else None
    return numbers
