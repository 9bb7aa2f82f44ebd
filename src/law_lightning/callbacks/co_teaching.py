"""Co-teaching: two networks, each of which chooses the samples that the other learns from."""

from __future__ import annotations

import math
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning._compat import has_validation_data
from law_lightning.callbacks.checks import refuse_averages, refuse_second_network, warn_of_one_sided
from law_lightning.callbacks.weighting import WeightingCallback
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.capture.part import Part
from law_lightning.capture.samples import Samples
from law_lightning.second_network.evaluation import Evaluator
from law_lightning.second_network.peer import Peer
from law_lightning.stages.clock import Record
from law_lightning.stages.schedule import TrainingPhase
from law_lightning.stages.statistics import StageStatistics
from law_lightning.weighting.small_loss import forget_rate_at, small_loss_weights


class CoTeachingCallback(WeightingCallback):
    r"""Co-teaching on any LightningModule: ``Trainer(callbacks=[CoTeachingCallback(forget_rate=0.4)])``.

    Implements Algorithm 1 of Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy
    Labels", NeurIPS 2018 (arXiv:1804.06872). Beside the user's network f trains a peer g, of the same architecture
    from other initial parameters, on the same batches with the same randomness (augmentations, dropout). In each batch

    .. math:: w_f \leftarrow w_f - \eta \nabla \operatorname{mean}_{i \in \mathcal{D}_g} L_i(f), \qquad
        w_g \leftarrow w_g - \eta \nabla \operatorname{mean}_{i \in \mathcal{D}_f} L_i(g)

    where :math:`\mathcal{D}_f` are the :math:`\lfloor R(T) B \rfloor` samples of the smallest loss under f,
    :math:`\mathcal{D}_g` those under g, and R(T) is 1 less the forget rate of epoch T
    (see :func:`~law_lightning.weighting.small_loss.forget_rate_at`). R is 1 in the first epoch, so that both networks
    begin with all samples.

    A step costs two forward and two backward passes. If it has several losses, samples are chosen for each separately.
    With several processes each chooses within its own part of the batch.

    Args:
        forget_rate: tau, the share of samples left out in the end, in [0, 1): the assumed share of wrong labels.
        gradual_epochs: T_k, the epochs over which the share grows; the paper's 10 are of 200.
        exponent: c; the share grows to tau^c within those epochs.
        peer: a second module of the same class, with whose parameters and buffers the peer begins; it is itself left
            as it is. By default the peer's are drawn by ``reset_parameters`` of each submodule; pass a module where
            its constructor initialises otherwise. Frozen submodules keep their parameters.
        seed: of the peer's initial parameters.
        keep: which network is in the user's module at the end: ``"first"``, its own, or ``"best"``, the one that
            validates better, for which validation data are needed.
        num_stages: stages into which the history is cut.
        smoothing: see :class:`WeightingCallback`.
        analyse_labels: record ``weight_clean`` and ``weight_wrong``, here the mean weights of samples with a right and
            a wrong label as the user's network chooses them for the peer (see :class:`WeightingCallback`).
        total_steps: optimizer steps to cut into stages (see :class:`WeightingCallback`).

    Attributes:
        peer: the second network; None before a fit, on the CPU after it.
        history: as for :class:`WeightingCallback`, and ``forget_rate`` (at the stage's end), ``peer_loss`` and
            ``peer_accuracy`` (both of training, over all samples) and ``agreement``, the share of samples that both
            networks chose or both left out.

    Raises:
        ValueError: an argument is out of its range.

    Note:
        The peer's hooks (``on_before_backward``, ``on_train_batch_end``) get its loss over all samples; its gradient is
        that of the chosen ones.
    """

    def __init__(
        self,
        forget_rate: float,
        *,
        gradual_epochs: int = 10,
        exponent: float = 1.0,
        peer: L.LightningModule | None = None,
        seed: int = 0,
        keep: Literal["first", "best"] = "first",
        num_stages: int = 20,
        smoothing: float = 0.5,
        analyse_labels: bool = False,
        total_steps: int | None = None,
    ) -> None:
        if not 0 <= forget_rate < 1:
            raise ValueError(f"forget_rate must be in [0, 1), not {forget_rate}.")
        if not isinstance(gradual_epochs, int) or gradual_epochs < 1:
            raise ValueError(f"gradual_epochs must be a whole number of at least 1, not {gradual_epochs}.")
        if not (exponent > 0 and math.isfinite(exponent)):
            raise ValueError(f"exponent must be above 0 and finite, not {exponent}.")
        if keep not in ("first", "best"):
            raise ValueError(f"keep must be 'first' or 'best', not {keep!r}.")
        super().__init__(
            self._choose,
            num_stages=num_stages,
            smoothing=smoothing,
            analyse_labels=analyse_labels,
            total_steps=total_steps,
        )
        self.forget_rate = forget_rate
        self.gradual_epochs = gradual_epochs
        self.exponent = exponent
        self.keep = keep
        self._peer = Peer(peer, seed)
        self._choices = _Choices(self._peer)
        self._evaluator: Evaluator | None = None
        self._forget = 0.0

    @property
    def peer(self) -> L.LightningModule | None:
        """The second network; None before a fit."""
        return self._peer.module

    @property
    def parts(self) -> dict[str, Part]:
        """The peer runs forward before the user's network, and backward when the choices of both are known."""
        return {"peer": self._peer, "choices": self._choices, "peer_statistics": self._choices.statistics}

    def check(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Raise an error where no second network can run."""
        refuse_second_network(trainer, module, "CoTeachingCallback")
        warn_of_one_sided(trainer, self, "first")
        if self.keep == "best":
            refuse_averages(trainer, "CoTeachingCallback", "first")
            if not has_validation_data(trainer):
                raise MisconfigurationException(
                    "CoTeachingCallback(keep='best') compares both networks on validation data, but there are none: "
                    "give the Trainer val_dataloaders and do not set limit_val_batches=0, or use keep='first'."
                )

    def prepare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Refuse an optimizer that evaluates a batch several times; check the validation data on one batch."""
        if isinstance(trainer.optimizers[0], torch.optim.LBFGS):
            raise MisconfigurationException(self._peer.several_evaluations())
        self._evaluator = None
        if self.keep == "best":
            self._evaluator = Evaluator(trainer)
            self._evaluator([module], limit=1)

    def before_batch(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """The share of this batch that is left out."""
        # Not at the start of an epoch: a fit that is resumed within an epoch has no such start.
        self._forget = forget_rate_at(trainer.current_epoch, self.forget_rate, self.gradual_epochs, self.exponent)

    def _choose(self, samples: Samples, phase: TrainingPhase | None = None) -> Tensor | None:
        """The weights of the samples of small loss, by these losses; None for all."""
        return None if self._forget == 0 else small_loss_weights(samples.loss, self._forget, samples.valid)

    def weights(self, samples: Samples) -> Tensor | None:
        """Weights of the samples that the peer's losses choose; those that the user's losses choose are the peer's."""
        if not self._peer.samples:  # called between steps, to analyse labels
            return self._choose(samples)
        others = self._choices.counterpart(samples)
        self._peer.weights.append(self._choose(samples))
        self._choices.own.append(self._choose(others))
        return self._choices.own[-1]

    def end_stage(self, trainer: L.Trainer, module: L.LightningModule, record: Record, phase: TrainingPhase) -> None:
        """Record the forget rate and the peer's statistics."""
        record |= {"forget_rate": self._forget, **self._choices.summary(trainer)}

    def scalars(self, record: Record) -> dict[str, float]:
        """A record's numbers under their log keys, ``law/*``."""
        names = ("forget_rate", "peer_loss", "peer_accuracy", "agreement")
        return super().scalars(record) | {f"law/{name}": record[name] for name in names}

    def finish(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Leave the network that validates better in the user's module (``keep="best"``)."""
        if self.keep == "best" and self.peer is not None:
            own, peers = (self._evaluator or Evaluator(trainer))([module, self.peer])
            if peers > own:
                self._peer.give_to(module)


class _Choices(Part):
    """What both networks chose in a step, and how often they agreed in a stage."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.statistics = StageStatistics()  #: of the peer's losses; a sample weighs 1 where both networks agreed
        self.own: list[Tensor | None] = []  #: weights of the user's network in this step, an entry for each loss

    def before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A step begins."""
        self.own = []

    def counterpart(self, samples: Samples) -> Samples:
        """What the peer's step revealed of the samples of the next loss."""
        position, revealed = len(self.own), self._peer.samples
        if position >= len(revealed):
            raise _other_losses(position + 1, len(revealed), "losses")
        if len(revealed[position]) != len(samples):
            raise _other_losses(len(samples), len(revealed[position]), "samples in a loss")
        return revealed[position]

    def after_step(self, capture: LossCapture) -> None:
        """Both networks' choices are known: count where they agree."""
        revealed = self._peer.samples
        if len(capture.samples) != len(revealed):
            raise _other_losses(len(capture.samples), len(revealed), "losses")
        for samples, first, second in zip(revealed, self.own, self._peer.weights, strict=True):
            agreed = None if first is None or second is None else ((first > 0) == (second > 0)).float()
            self.statistics.add(samples, agreed)

    def summary(self, trainer: L.Trainer) -> dict[str, float]:
        """The stage in plain numbers, over all processes; resets the statistics."""
        summary = self.statistics.summary(trainer)
        names = {"peer_loss": "loss", "peer_accuracy": "accuracy", "agreement": "weight_mean"}
        return {name: summary[of] for name, of in names.items()}


def _other_losses(first: int, second: int, what: str) -> MisconfigurationException:
    return MisconfigurationException(
        f"Co-teaching chooses each network's samples by the other's losses, but the first has {first} {what} and "
        f"the second {second}: training_step must compute the same losses whatever the parameters are."
    )
