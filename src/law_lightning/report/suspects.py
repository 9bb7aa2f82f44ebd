"""A contact sheet of samples whose labels are likely wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.seed import isolate_rng
from matplotlib.figure import Figure
from torch import Tensor

from law_lightning.report.style import save

_COLUMNS, _MOST = 8, 48


def draw_suspects(data: L.LightningDataModule, suspects: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """Draw the first suspects as images, each with its given label and the predicted one.

    Args:
        data: Whose training dataset the suspects belong to; classes have the names of its ``classes``, if there are.
        suspects: Records of :meth:`~law_lightning.callbacks.weighting.WeightingCallback.suspects`.
        path: Of the PNG file.

    Returns:
        The path; None where there is no suspect, or the dataset gives no images [1 or 3, H, W].
    """
    with isolate_rng():  # making the loader or a sample may draw
        dataset = getattr(data.train_dataloader(), "dataset", None)
        try:
            images = [] if dataset is None else [_image(dataset[each["index"]]) for each in suspects[:_MOST]]
        except Exception:  # such as of a data set that is read by whole batches; the training is not to be lost
            images = []
    if not images or any(image is None for image in images):
        return None
    names = getattr(dataset, "classes", None)
    columns, rows = min(_COLUMNS, len(images)), math.ceil(len(images) / _COLUMNS)
    width, height = 1.25 * columns, 1.6 * rows + 0.4
    figure = Figure(figsize=(width, height))  # not constrained: to fit so many axes takes seconds
    figure.subplots_adjust(0.02, 0.15 / height, 0.98, 1 - 0.85 / height, 0.1, 0.5)
    figure.suptitle(f"Labels that are likely wrong: the first {len(images)} of {len(suspects)}", fontsize=10)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, each in zip(grid.flat, images, suspects, strict=False):
        axes.imshow(image, cmap="gray", interpolation="nearest")
        given, predicted = (_name(each[key], names) for key in ("given", "predicted"))
        axes.set_title(f"given: {given}\npredicted: {predicted}\nsample {each['index']}", fontsize=7)
    return save(figure, path)


def _image(sample: Any) -> Any:
    """A sample's input as an array [H, W] or [H, W, 3] in [0, 1]; None where it is no image."""
    x = sample[0] if isinstance(sample, (tuple, list)) and sample else None
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[0] not in (1, 3) or min(x.shape[1:]) < 2:
        return None
    x = x.detach().float().cpu()
    x = (x - x.min()) / (x.max() - x.min()).clamp_min(1e-9)  # it may be standardised
    return x[0].numpy() if len(x) == 1 else x.permute(1, 2, 0).numpy()


def _name(label: int, names: Any) -> str:
    known = isinstance(names, Sequence) and not isinstance(names, str) and 0 <= label < len(names)
    return str(names[label])[:14] if known else str(label)
