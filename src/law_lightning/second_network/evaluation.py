"""Validation accuracy of several networks in one pass over the validation data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.utils.data import DistributedSampler

from law_lightning._compat import has_validation_data, make_validation_loaders, set_sampler_epoch, to_device
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.capture.losses import check_target
from law_lightning.capture.samples import Samples
from law_lightning.second_network.duplicate import duplicate
from law_lightning.utilities.processes import gathered_from_processes
from law_lightning.utilities.randomness import random_states, replaying

_GIVE_DATA = (
    "there is no validation data: give the Trainer val_dataloaders (or a val_dataloader in the module or datamodule) "
    "and do not set limit_val_batches=0. "
)
NO_REWARD = (
    f"LAW's reward is the validation accuracy of two networks, but {_GIVE_DATA}One network "
    "without a reward needs none: LAWCallback(mode='apply'), or LAWCallback(agent, mode='apply') with a strategy found "
    "before."
)
NO_PHASE = (
    f"This strategy follows the network's validation accuracy, but {_GIVE_DATA}A strategy that was searched with "
    "StrategyAgent(phase_accuracy='training') needs none."
)

#: Iteration of the samplers that pad the last processes' shares; a subclass may have an order of its own.
_PADS_AT_THE_END = (DistributedSampler.__iter__, DistributedSamplerWrapper.__iter__)


def validation_loaders(trainer: L.Trainer) -> list[Any]:
    """The Trainer's validation loaders; none where there is nothing to validate on."""
    if not has_validation_data(trainer):
        return []
    if trainer.val_dataloaders is not None:
        return [loader for loader in CombinedLoader(trainer.val_dataloaders, "sequential").flattened if loader != []]
    with replaying():  # the Trainer makes them only if the module has a validation_step
        given, made = make_validation_loaders(trainer)
        return [made(loader) for loader in CombinedLoader(given, "sequential").flattened if loader != []]


class Predictions(NamedTuple):
    """What a network predicts for B samples of the validation data."""

    accuracy: Tensor  # [B] in [0, 1]
    valid: Tensor  # [B] of bool: whether a sample has a label
    confidence: Tensor  # [B]: the largest predicted probability
    target: Tensor  # [B]

    @classmethod
    def of(cls, samples: Samples) -> Predictions:
        """Those of a captured loss."""
        everything = torch.ones_like(samples.target, dtype=torch.bool)
        valid = everything if samples.valid is None else samples.valid
        return cls(samples.accuracy, valid, samples.logits.float().softmax(dim=1).amax(dim=1), samples.target)


class Evaluator:
    """Accuracy on the Trainer's validation data, as plain numbers; the user's objects do not change.

    Copies of the modules are evaluated, so that neither their metrics nor their mode change. The accuracy comes from
    the logits and targets that ``validation_step`` reveals, else from ``forward`` on a batch ``(x, target)``.

    Args:
        trainer: the Trainer, during a fit.
        no_data: the error's text where there is no validation data.

    Raises:
        MisconfigurationException: there is no validation data.
    """

    def __init__(self, trainer: L.Trainer, no_data: str = NO_REWARD) -> None:
        self._trainer, self._no_data = trainer, no_data
        self._loaders = validation_loaders(trainer)
        if not self._loaders:
            raise MisconfigurationException(no_data)

    def __call__(self, modules: Sequence[L.LightningModule], limit: int | None = None) -> list[float]:
        """The accuracy of each module, in [0, 1], over the data of all processes, each sample counted once.

        Args:
            modules: the networks; all see each batch while it is loaded once.
            limit: the most batches of each loader to look at.

        Raises:
            MisconfigurationException: the module reveals no accuracy, or there are no samples with a label.
            ValueError: labels out of range.
        """
        trainer = self._trainer
        stage = trainer.state.stage
        if trainer.val_dataloaders is not None:  # the Trainer may reload them between epochs
            self._loaders = validation_loaders(trainer)
        with replaying(), _keeping_generators(self._loaders), torch.no_grad():
            twins = [duplicate(trainer, module).eval() for module in modules]
            if getattr(trainer.strategy.model, "broadcast_buffers", False):  # as the Trainer's validation does
                for buffer in itertools.chain.from_iterable(twin.buffers() for twin in twins):
                    torch.distributed.broadcast(buffer, 0)
            self._found: list[list[Predictions]] = [[] for _ in modules]
            trainer.validating = True
            try:
                for twin, hook in itertools.product(twins, ("on_validation_start", "on_validation_epoch_start")):
                    if is_overridden(hook, twin, L.LightningModule):  # may set up what validation_step needs
                        getattr(twin, hook)()
                for loader_idx, loader in enumerate(self._loaders):
                    self._add_loader(twins, loader, loader_idx, limit)
            finally:
                trainer.state.stage = stage
        totals = torch.zeros(len(twins), 2, device=trainer.strategy.root_device, dtype=torch.float64)
        for total, batches in zip(totals, self._found, strict=True):
            for each in batches:
                total += torch.stack([(each.accuracy * each.valid).sum(), each.valid.sum()])
        totals = trainer.strategy.reduce(totals, reduce_op="sum")
        if not totals[:, 1].all():
            raise MisconfigurationException("The validation data hold no samples with a label. " + self._no_data)
        return [right / count for right, count in totals.tolist()]

    def predictions(self) -> list[Predictions]:
        """What each network predicted in the last evaluation, on the CPU: samples with a label, of all processes.

        A collective operation: every process must call this.
        """
        parts = gathered_from_processes({"found": [_known(batches) for batches in self._found]})
        networks = zip(*(part["found"] for part in parts), strict=True)
        return [Predictions(*map(torch.cat, zip(*shares, strict=True))) for shares in networks]

    def _add_loader(self, twins: Sequence[L.LightningModule], loader: Any, loader_idx: int, limit: int | None) -> None:
        share = self._trainer.limit_val_batches  # a number of batches, or a share of them
        most = share if isinstance(share, int) else None if share in (None, 1.0) else int(len(loader) * share)
        batches = min((each for each in (most, limit) if each is not None), default=None)
        # Otherwise a resumed fit would begin with another order, and limit_val_batches would take other samples.
        set_sampler_epoch(loader, self._trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        position = 0
        for batch_idx, batch in enumerate(itertools.islice(iter(loader), batches)):
            before = random_states()
            for row, twin in enumerate(twins):
                # All from the same random states; the next batch is loaded from those that the first network left.
                with replaying(before) if row else nullcontext():
                    found = self._predictions(twin, batch, batch_idx, loader_idx)
                once, size = _counted_once(loader, position, len(found.accuracy))
                self._found[row].append(found._replace(valid=once.to(found.valid.device) & found.valid))
            position += size

    def _predictions(self, twin: L.LightningModule, batch: Any, batch_idx: int, loader_idx: int) -> Predictions:
        """The module's predictions for a batch."""
        trainer = self._trainer
        batch = to_device(trainer, twin, batch, loader_idx)
        with trainer.precision_plugin.val_step_context():
            if is_overridden("validation_step", twin, L.LightningModule):
                takes_index = is_param_in_hook_signature(twin.validation_step, "batch_idx", min_args=2)
                where = [batch_idx] * takes_index + [loader_idx] * (len(self._loaders) > 1)
                with LossCapture(training=False, check_labels=batch_idx == 0) as capture:
                    output = twin.validation_step(batch, *where)
                if isinstance(output, dict) and isinstance(output.get("losses"), Tensor):
                    capture.take_output(output)
                if capture.samples:
                    return Predictions.of(capture.samples[0])
            cause: Exception | None = None
            if isinstance(batch, (list, tuple)) and len(batch) == 2 and isinstance(batch[1], Tensor):
                inputs, target = batch
                try:
                    logits = twin(inputs)
                # It takes something else. A RuntimeError may have another cause, as a full memory.
                except (AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as error:
                    logits, cause = None, error
                if isinstance(logits, Tensor) and logits.ndim == 2 and target.shape == logits.shape[:1]:
                    check_target(logits, target)
                    return Predictions.of(Samples(torch.zeros(len(target)), logits, target, valid=target != -100))
        raise MisconfigurationException(
            f"LAW cannot find the validation accuracy of {type(twin).__name__}: its validation_step should compute "
            "F.cross_entropy, F.nll_loss or F.binary_cross_entropy_with_logits, call weighted(losses, logits, target) "
            "from law_lightning, or return a dict with 'losses', 'logits' and 'target'; or the batches should be "
            "(x, target) with forward(x) giving logits [B, C]"
            f"{f', which ended with {type(cause).__name__}: {cause}' if cause else ''}."
        ) from cause


def _known(batches: Sequence[Predictions]) -> list[Tensor]:
    """The columns of all batches, of samples with a label."""
    if not batches:
        return [torch.zeros(0), torch.zeros(0).bool(), torch.zeros(0), torch.zeros(0).long()]
    columns = [torch.cat(column) for column in zip(*batches, strict=True)]
    return [column[columns[1]].cpu() for column in columns]


def _counted_once(loader: Any, position: int, rows: int) -> tuple[Tensor, int]:
    """Which rows of a batch count, and how many samples it has; a DistributedSampler pads the last processes' shares.

    ``position`` samples of this process came before it. Several ``rows`` may be of one sample, where
    ``validation_step`` flattens positions into them.
    """
    batches = getattr(loader, "batch_sampler", None)
    sampler = getattr(batches, "sampler", getattr(loader, "sampler", None))  # also the user's own batch sampler's
    if not isinstance(sampler, DistributedSampler) or type(sampler).__iter__ not in _PADS_AT_THE_END:
        return torch.ones(rows, dtype=torch.bool), rows
    batch_size = getattr(loader, "batch_size", None)
    samples = rows if batch_size is None else min(batch_size, len(sampler) - position)
    if rows % samples:  # which row is of which sample cannot be known
        return torch.ones(rows, dtype=torch.bool), samples
    index = (torch.arange(samples) + position) * sampler.num_replicas + sampler.rank
    size: int = len(sampler.dataset)  # type: ignore[arg-type]
    return (index < size).repeat_interleave(rows // samples), samples


@contextmanager
def _keeping_generators(loaders: Sequence[Any]) -> Iterator[None]:
    """Restore, after a block, the random generators that loaders and samplers may own."""
    owners = itertools.chain.from_iterable((loader, getattr(loader, "sampler", None)) for loader in loaders)
    found = {getattr(owner, "generator", None) for owner in owners}
    states = [(generator, generator.get_state()) for generator in found if isinstance(generator, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)
