"""Loss, logits and label of each sample of a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """The samples of one classification loss; detached from the graph unless a weighting asks for it.

    Attributes:
        loss: per-sample losses, [B]. For dense predictions a sample's loss is its mean over positions.
        logits: scores, [B, C]. For dense predictions their mean over positions; for one binary logit z, [0, z].
        target: class indices, [B]. For targets given as probabilities the likeliest class.
        correct: how much of a sample the network gets right, [B] in [0, 1]; by default whether the largest logit
            is the target's.
        valid: False for samples without a target (``ignore_index``), [B]; None where all have one.
        one_label: whether each sample has exactly one label: not one for each of many positions, not one for each of C
            classes, and not a distribution over the classes.
        denominator: what the reduction divides each loss by, a scalar or [B]: ``(loss / denominator).sum()`` is the
            plain loss. None for B. Of a loss that is not reduced, what a mean over all its elements divides by.
        index: the samples' places in the training loader's dataset, [B]; None where they are not known: an iterable
            dataset, batches that are not made by the loader, a loss with other rows than the batch.
    """

    loss: Tensor
    logits: Tensor
    target: Tensor
    correct: Tensor | None = None
    valid: Tensor | None = None
    one_label: bool = True
    denominator: Tensor | float | None = None
    index: Tensor | None = None

    def __len__(self) -> int:
        return self.loss.shape[0]

    def detach(self) -> Samples:
        """The same without the graph."""
        return replace(self, loss=self.loss.detach(), logits=self.logits.detach())

    @property
    def divisor(self) -> Tensor | float:
        """:attr:`denominator` or B; infinite for a sample whose loss is not in the mean."""
        return len(self) if self.denominator is None else self.denominator

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return self.logits.shape[1]

    @property
    def mean_loss(self) -> Tensor:
        """Mean loss of the samples that have a target, a scalar."""
        return self.loss.mean() if self.valid is None else (self.loss * self.valid).sum() / self.valid.sum()

    @property
    def accuracy(self) -> Tensor:
        """How much of each sample is right, [B] in [0, 1]."""
        if self.correct is not None:
            return self.correct
        right = self.logits.argmax(dim=1) == self.target
        return (right if self.valid is None else right & self.valid).float()
