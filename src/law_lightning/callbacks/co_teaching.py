"""Co-teaching: two networks, each of which tells the other what to learn from."""

from __future__ import annotations

import math
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning._compat import has_validation_data
from law_lightning.callbacks.checks import refuse_averages, refuse_second_network
from law_lightning.callbacks.lockstep import LockstepCallback
from law_lightning.callbacks.resume import refuse_ended
from law_lightning.callbacks.staged import Record
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.capture.samples import Samples
from law_lightning.second_network.evaluation import Evaluator
from law_lightning.second_network.peer import Peer, check_can_be_drawn, check_start
from law_lightning.second_network.reference import StepRecord
from law_lightning.stages.schedule import TrainingPhase
from law_lightning.stages.statistics import StageStatistics
from law_lightning.weighting.small_loss import forget_rate_at, small_loss_weights


class CoTeachingCallback(LockstepCallback):
    r"""Co-teaching on anyone's module: ``Trainer(callbacks=[CoTeachingCallback(forget_rate=0.4)])``.

    Implements Algorithm 1 of Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy
    Labels", NeurIPS 2018 (arXiv:1804.06872). Beside the user's network f trains a peer g, of the same architecture
    from other initial parameters, on the same batches with the same randomness (augmentations, dropout). In each batch

    .. math:: w_f \leftarrow w_f - \eta \nabla \operatorname{mean}_{i \in \mathcal{D}_g} L_i(f), \qquad
        w_g \leftarrow w_g - \eta \nabla \operatorname{mean}_{i \in \mathcal{D}_f} L_i(g)

    where :math:`\mathcal{D}_f` are the :math:`\lfloor R(T) B \rfloor` samples of the smallest loss under f,
    :math:`\mathcal{D}_g` those under g, and R(T) is 1 less the forget rate of epoch T
    (see :func:`~law_lightning.weighting.small_loss.forget_rate_at`). R is 1 in the first epoch, so that both networks
    begin with all samples.

    A step costs two forward and two backward passes. Of several losses in one step each is chosen from by itself.
    With several processes each chooses within its own part of the batch.

    Args:
        forget_rate: tau, the share of samples left out in the end, in [0, 1): the assumed share of wrong labels.
        gradual_epochs: T_k, the epochs over which the share grows; the paper's 10 are of 200.
        exponent: c; the share grows to tau^c within those epochs.
        peer: a second module of the same class, with whose parameters and buffers the peer begins; it is itself left
            as it is. By default the peer's are drawn by ``reset_parameters`` of each submodule; pass a module where
            its constructor initialises otherwise. Frozen submodules are not drawn anew.
        seed: of the peer's initial parameters.
        keep: which network is in the user's module at the end: ``"first"``, its own, or ``"best"``, the one that
            validates better, for which validation data are needed.
        num_stages: stages into which the history is cut.
        smoothing: share of the old average that stays in l_smooth and acc_smooth after a stage, in [0, 1).
        analyse_labels: record ``weight_clean`` and ``weight_wrong``, here the mean weights of samples with a right and
            a wrong label as the user's network chooses them for the peer (see :class:`WeightingCallback`).

    Attributes:
        peer: the second network; None before a fit, on the CPU after it.
        history: as for :class:`WeightingCallback`, and ``forget_rate`` (at the stage's end), ``peer_loss`` and
            ``peer_accuracy`` (both of training, over all samples) and ``agreement``, the share of samples that both
            networks chose or both left out.

    Raises:
        ValueError: a bad argument.

    Note:
        Hooks of the peer's (``on_before_backward``, ``on_train_batch_end``) are given its loss over all samples; its
        gradient is that of the chosen ones.
    """

    second_key = "peer"

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
    ) -> None:
        if not 0 <= forget_rate < 1:
            raise ValueError(f"forget_rate must be in [0, 1), not {forget_rate}.")
        if not isinstance(gradual_epochs, int) or gradual_epochs < 1:
            raise ValueError(f"gradual_epochs must be a whole number of at least 1, not {gradual_epochs}.")
        if not (exponent > 0 and math.isfinite(exponent)):
            raise ValueError(f"exponent must be above 0 and finite, not {exponent}.")
        if keep not in ("first", "best"):
            raise ValueError(f"keep must be 'first' or 'best', not {keep!r}.")
        super().__init__(self._choose, num_stages=num_stages, smoothing=smoothing, analyse_labels=analyse_labels)
        self.forget_rate = forget_rate
        self.gradual_epochs = gradual_epochs
        self.exponent = exponent
        self.seed = seed
        self.keep = keep
        self._given_peer = peer
        self._second: Peer | None = None
        self._evaluator: Evaluator | None = None
        self._forget = 0.0
        self._peer_statistics = StageStatistics()
        self._agreed: Tensor | None = None  # samples on which the networks agreed, and all; [2]
        self._end_step()

    def _end_step(self) -> None:
        self._revealed: list[Samples] = []  # by the peer's step
        self._first_weights: list[Tensor | None] = []
        self._peer_weights: list[Tensor | None] = []

    @property
    def peer(self) -> L.LightningModule | None:
        """The second network; None before a fit."""
        return self.second

    # -- before training -----------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot work, before anything runs."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        refuse_second_network(trainer, pl_module, "CoTeachingCallback")
        if self.keep == "best":
            refuse_averages(trainer, "CoTeachingCallback", "first")
        if self._given_peer is None:
            check_can_be_drawn(pl_module)
        elif self._given_peer is pl_module:
            raise MisconfigurationException("peer is the module that is fitted; it must be a second one.")
        else:
            check_start(pl_module, self._given_peer)
        if self.keep == "best" and not has_validation_data(trainer):
            raise MisconfigurationException(
                "CoTeachingCallback(keep='best') compares both networks on validation data, but there are none: give "
                "the Trainer val_dataloaders and do not set limit_val_batches=0, or use keep='first'."
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the second network, and cut the run into stages."""
        optimizer = trainer.optimizers[0]
        if isinstance(optimizer, torch.optim.LBFGS):
            raise MisconfigurationException(self._several_evaluations(pl_module, type(optimizer).__name__))
        self._end_step()
        self._evaluator = None
        self._peer_statistics = StageStatistics()
        self._agreed = torch.zeros(2, dtype=torch.float64, device=trainer.strategy.root_device)
        if self.keep == "best":
            self._evaluator = Evaluator(trainer)
            self._evaluator([pl_module], limit=1)
        self._second = Peer(trainer, pl_module, self._given_peer, self.seed)
        super().on_train_start(trainer, pl_module)
        self._second.hook("on_train_start")

    @staticmethod
    def _several_evaluations(module: L.LightningModule, optimizer: str) -> str:
        return (
            f"The optimizer of {type(module).__name__}, {optimizer}, runs training_step several times in one step. In "
            "co-teaching two networks take turns in each batch: use an optimizer that runs it once (SGD, Adam, ...)."
        )

    # -- steps ---------------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The share of this batch that is left out."""
        self._end_step()
        # Not once an epoch: a fit that is resumed within one does not start it.
        self._forget = forget_rate_at(trainer.current_epoch, self.forget_rate, self.gradual_epochs, self.exponent)
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The peer's forward pass on the same batch: its losses are to weigh those of the user's network."""
        assert self._second is not None
        if self._record is not None:
            optimizer = type(self._second.optimizer).__name__
            raise MisconfigurationException(self._several_evaluations(self._second.module, optimizer))
        self._record = self._second.begin_step(args, kwargs)
        self._revealed = self._second.look(self._record, check_labels=not self._found_samples)

    def _choose(self, samples: Samples, phase: TrainingPhase | None = None) -> Tensor | None:
        """The weights by which these samples' losses choose among them; None for all."""
        return None if self._forget == 0 else small_loss_weights(samples.loss, self._forget, samples.valid)

    def _weights(self, samples: Samples) -> Tensor | None:
        if self._record is None:  # labels are analysed
            return self._choose(samples)
        position = len(self._first_weights)
        if position >= len(self._revealed):
            raise MisconfigurationException(self._other_losses(position + 1, len(self._revealed), "losses"))
        others = self._revealed[position]
        if len(others) != len(samples):
            raise MisconfigurationException(self._other_losses(len(samples), len(others), "samples in a loss"))
        self._first_weights.append(self._choose(others))
        self._peer_weights.append(self._choose(samples))
        return self._first_weights[-1]

    @staticmethod
    def _other_losses(first: int, second: int, what: str) -> str:
        return (
            f"Co-teaching chooses each network's samples by the other's losses, but the first has {first} {what} and "
            f"the second {second}: training_step must compute the same losses whatever the parameters are."
        )

    def after_step(self, capture: LossCapture) -> None:
        """Both networks' choices are known: take note of them."""
        assert self._agreed is not None
        if len(capture.samples) != len(self._revealed):
            raise MisconfigurationException(self._other_losses(len(capture.samples), len(self._revealed), "losses"))
        for samples, first, second in zip(capture.samples, self._first_weights, self._peer_weights, strict=True):
            same = torch.ones_like(samples.loss) if first is None or second is None else (first > 0) == (second > 0)
            counted = torch.ones_like(samples.loss) if samples.valid is None else samples.valid
            self._agreed += torch.stack([(same * counted).sum(), counted.sum()])
        for samples in self._revealed:
            self._peer_statistics.add(samples, None)

    def follow(self, record: StepRecord, batch_idx: int) -> dict[str, Any]:
        """The peer learns from what the user's network chose."""
        assert self._second is not None
        return self._second.learn(record, self._peer_weights, batch_idx)

    def end_stage(self, trainer: L.Trainer, module: L.LightningModule, record: Record, phase: TrainingPhase) -> None:
        """What the peer did in the stage."""
        assert self._agreed is not None
        summary = self._peer_statistics.summary(trainer)
        agreed, count = trainer.strategy.reduce(self._agreed, reduce_op="sum").tolist()
        self._agreed = torch.zeros_like(self._agreed)
        record |= {
            "forget_rate": self._forget,
            "peer_loss": summary["loss"],
            "peer_accuracy": summary["accuracy"],
            "agreement": agreed / count if count else 1.0,
        }

    def scalars(self, record: Record) -> dict[str, float]:
        """A record's numbers under their log keys, ``law/*``."""
        names = ("forget_rate", "peer_loss", "peer_accuracy", "agreement")
        return super().scalars(record) | {f"law/{name}": record[name] for name in names}

    # -- afterwards ----------------------------------------------------------------------------------------

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the network that validates better in the user's module (``keep="best"``)."""
        if self._evaluator is not None and self._second is not None:
            self.choose(pl_module, *self._evaluator([pl_module, self._second.module]))
        super().on_train_end(trainer, pl_module)

    def release(self) -> None:
        """Take the peer off the Trainer; a plain module remains."""
        super().release()
        self._evaluator = None
        self._end_step()

    # -- state ---------------------------------------------------------------------------------------------

    def process_state(self) -> dict[str, Any]:
        """What each process has for itself: tensors and plain Python."""
        assert self._agreed is not None
        return super().process_state() | {
            "peer_statistics": self._peer_statistics.state_dict(),
            "agreed": self._agreed.cpu(),
        }

    def load_process_state(self, trainer: L.Trainer, own: dict[str, Any]) -> None:
        """Go on where :meth:`process_state` was taken on this process."""
        super().load_process_state(trainer, own)
        device = trainer.strategy.root_device
        self._peer_statistics.load_state_dict(own["peer_statistics"], device)
        self._agreed = own["agreed"].to(device)

    def fit_state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors and plain Python."""
        state = super().fit_state()
        return state if self._second is None else state | {self.second_key: self._second.state_dict()}

    def _resume(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        refuse_ended(type(self).__name__, state)
        assert self._second is not None
        super()._resume(trainer, module, state)
        self._second.load_state_dict(state[self.second_key])
