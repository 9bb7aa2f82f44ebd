"""Any labelled arrays, from an ``.npz`` file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.nn.functional import avg_pool2d

from law_lightning.data.in_memory import ArrayDataModule, ArraySplits, random_horizontal_flip
from law_lightning.data.npz import Channels, inputs_tensor, labels_tensor, read_npz
from law_lightning.data.preparation import check_at_least, cut, permuted_indices, standardize


class ArraysDataModule(ArrayDataModule):
    """Data from an ``.npz`` file with ``train_x, train_y, test_x, test_y`` and, optionally, ``val_x, val_y``.

    Inputs are uint8 (scaled to [0, 1]) or float, of shape [N, D], [N, H, W], [N, H, W, C] or [N, C, H, W];
    labels are integers [N] from 0. Inputs are standardised with statistics of the training samples used:
    of each channel for images, of each feature for float vectors, of everything together for uint8 vectors
    (flattened pixels, many of them nearly constant).

    Args:
        path: The file.
        train_size: Training samples to use, a random choice; None uses all.
        val_size: Validation samples to take out of the training ones when the file has no ``val_x``: a
            count (int) or a fraction (float). They have the labels of ``train_y``, wrong ones too, which is logged
            and kept as ``validation_note``.
        split_seed: These choices depend on it alone, not on the random state of a run.
        shrink: Average the images over squares of this many pixels a side, for small networks; 1 leaves them.
        flip: Mirror each training image with probability one half, by torch's global random state; then no
            ``transform`` can be given.
        num_classes: Number of classes; None counts those of ``train_y``, none of which may be absent.
        channels: Where the channels of four-dimensional inputs are: "first", "last", or "auto", which
            takes the only axis of 1, 3, 4 or at most half of both others, and asks where that is not certain.
        **kwargs: Passed on to :class:`ArrayDataModule`: ``batch_size``, ``corruption``, ...
    """

    def __init__(
        self,
        path: str | Path,
        train_size: int | None = None,
        val_size: int | float = 0.2,
        split_seed: int = 0,
        shrink: int = 1,
        flip: bool = False,
        num_classes: int | None = None,
        channels: Channels = "auto",
        **kwargs: Any,
    ) -> None:
        if flip and kwargs.get("transform") is not None:
            raise ValueError("flip=True is a transform, and transform= another: write one that does both.")
        super().__init__(**(kwargs | ({"transform": random_horizontal_flip} if flip else {})))
        check_at_least(1, train_size=train_size, shrink=shrink, num_classes=num_classes)
        if isinstance(val_size, float) and not 0.0 < val_size < 1.0:
            raise ValueError(f"val_size is {val_size}, but as a fraction it must lie between 0 and 1.")
        if not isinstance(val_size, float):
            check_at_least(1, val_size=val_size)
        if channels not in ("auto", "first", "last"):
            raise ValueError(f"channels is {channels!r}, but it must be 'auto', 'first' or 'last'.")
        self.path = Path(path)
        self.train_size = train_size
        self.val_size = val_size
        self.split_seed = split_seed
        self.shrink = shrink
        self.flip = flip
        self.channels: Channels = channels
        self._stated_classes = num_classes

    def load_splits(self) -> ArraySplits:
        """Read the file, check it, and split off the validation samples if it has none."""
        arrays = read_npz(self.path)
        names = [key[:-2] for key in arrays if key.endswith("_x")]
        x = {n: inputs_tensor(arrays[f"{n}_x"], f"{n}_x in {self.path}", self.channels) for n in names}
        y = {n: labels_tensor(arrays[f"{n}_y"], f"{n}_y in {self.path}") for n in names}
        is_uint8 = arrays["train_x"].dtype == np.uint8
        if any((arrays[f"{name}_x"].dtype == np.uint8) != is_uint8 for name in names):
            raise ValueError(
                f"The inputs in {self.path} are partly uint8, which is scaled to [0, 1], and partly float: use one."
            )
        self._check_shapes(x, y)
        if self.shrink > 1:
            x = {name: avg_pool2d(images, self.shrink) for name, images in x.items()}
        size, has_val = len(y["train"]), "val" in y
        # A fraction of the samples, at least one.
        cut_out = max(1, round(self.val_size * size)) if isinstance(self.val_size, float) else self.val_size
        if not has_val:
            self.validation_note = (
                f"{self.path} has no val_x and val_y: {cut_out} of its {size} training samples (val_size="
                f"{self.val_size}) are taken out for validation. Their labels are those of train_y, wrong ones too; "
                "give val_x and val_y if there are samples whose labels were checked."
            )
            rank_zero_info(self.validation_note)
        order, what = permuted_indices(size, self.split_seed), f"train_x in {self.path} has {size} samples"
        train, val = cut(order, self.train_size, 0 if has_val else cut_out, what)
        train_x, train_y = x["train"][train], y["train"][train]
        val_x, val_y = (x["val"], y["val"]) if has_val else (x["train"][val], y["train"][val])
        train_x, val_x, test_x = standardize(train_x, val_x, x["test"], per_feature=not is_uint8)
        return ArraySplits(
            train_x, train_y, val_x, val_y, test_x, y["test"], self._count_classes(y), train, size
        )  # fmt: skip

    def _check_shapes(self, x: dict[str, Tensor], y: dict[str, Tensor]) -> None:
        shape = list(x["train"].shape[1:])
        for name in x:
            if len(x[name]) != len(y[name]):
                raise ValueError(
                    f"{self.path} has {len(x[name])} samples in {name}_x but {len(y[name])} labels in {name}_y."
                )
            if (other := list(x[name].shape[1:])) != shape:
                raise ValueError(
                    f"In {self.path} a sample of {name}_x has shape {other}, but one of train_x has {shape}."
                )
        if (self.flip or self.shrink > 1) and (len(shape) != 3 or min(shape[1:]) < self.shrink):
            raise ValueError(
                f"flip={self.flip}, shrink={self.shrink} need images of at least {self.shrink} pixels a side, but a "
                f"sample in {self.path} has shape {shape}."
            )

    def _count_classes(self, y: dict[str, Tensor]) -> int:
        num_classes = self._stated_classes or int(y["train"].max()) + 1
        for name, labels in y.items():
            if int(labels.max()) >= num_classes:
                raise ValueError(
                    f"{name}_y in {self.path} has the label {int(labels.max())}, but there are {num_classes} classes "
                    "by num_classes or train_y: renumber the classes, or give num_classes."
                )
        present = len(y["train"].unique())
        if self._stated_classes is None and present < num_classes:
            raise ValueError(
                f"train_y in {self.path} goes up to {num_classes - 1} but has only {present} classes: number the "
                "classes from 0 without gaps, or give num_classes."
            )
        return num_classes
