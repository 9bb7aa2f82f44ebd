"""The embedded data set: scikit-learn's handwritten digits."""

from __future__ import annotations

from typing import Any

import torch

from law_lightning.data.in_memory import ArrayDataModule, ArraySplits
from law_lightning.data.preparation import permuted_indices, standardize

_NUM_SAMPLES = 1797
_NUM_CLASSES = 10


class DigitsDataModule(ArrayDataModule):
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels, ten classes; needs ``pip install scikit-learn``.

    Pixels are scaled to [0, 1], then standardised with the mean and deviation of the training images.

    Args:
        train_size: Training images.
        val_size: Validation images; the rest is the test set.
        split_seed: The split depends on it alone, not on the random state of a run.
        **kwargs: Passed on to :class:`ArrayDataModule`: ``batch_size``, ``corruption``, ...
    """

    def __init__(self, train_size: int = 500, val_size: int = 500, split_seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if train_size < 1 or val_size < 1 or train_size + val_size >= _NUM_SAMPLES:
            raise ValueError(
                f"train_size={train_size} and val_size={val_size} do not split the {_NUM_SAMPLES} digits: each must be "
                f"at least 1, and together they must be less than {_NUM_SAMPLES}, since the rest is the test set."
            )
        self.train_size = train_size
        self.val_size = val_size
        self.split_seed = split_seed

    def load_splits(self) -> ArraySplits:
        """Return the digits, inputs [N, 1, 8, 8], cut by ``split_seed``."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        x = torch.from_numpy(digits.images).float().div(16).unsqueeze(1)
        y = torch.from_numpy(digits.target).long()
        order = permuted_indices(len(y), self.split_seed)
        # The validation images come first, so that they stay the same when train_size changes.
        val, train, test = torch.tensor_split(order, (self.val_size, self.val_size + self.train_size))
        train_x, val_x, test_x = standardize(x[train], x[val], x[test])
        return ArraySplits(train_x, y[train], val_x, y[val], test_x, y[test], _NUM_CLASSES, train, len(y))
