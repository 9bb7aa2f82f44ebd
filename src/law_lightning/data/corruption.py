"""Label corruption: uniform noise, and the record that remembers what was changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FORMAT = "law_lightning.corruption_record.v1"
_TENSOR_FIELDS = ("labels", "true_labels", "indices", "selected")
_PLAIN_FIELDS: dict[str, type] = {"name": str, "rate": float, "seed": int}


def _check_rate(rate: float) -> None:
    # "not inside" rather than "outside", so that NaN is caught as well.
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"The noise rate is {rate}, but it must lie in [0, 1].")


def _check_labels(labels: Tensor, num_classes: int) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}, but it must be at least 1.")
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(
            f"Labels must be an int64 tensor of shape [N], but they are {labels.dtype} of shape {list(labels.shape)}."
        )
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong) > 0:
        raise ValueError(
            f"Found the label {int(wrong[0])}, but with num_classes={num_classes} labels must lie in "
            f"[0, {num_classes - 1}]."
        )


def _draw_uniform_noise(labels: Tensor, rate: float, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the noisy labels, int64 [N], and which samples were selected, bool [N]."""
    _check_rate(rate)
    _check_labels(labels, num_classes)
    generator = torch.Generator().manual_seed(seed)
    # Both draws are made for every sample, whatever the rate: with one seed, the samples selected at a
    # low rate are selected at every higher rate too, and get the same class.
    selected = torch.rand(len(labels), generator=generator, dtype=torch.float64) < rate
    replacement = torch.randint(num_classes, (len(labels),), generator=generator)
    selected, replacement = selected.to(labels.device), replacement.to(labels.device)
    return torch.where(selected, replacement, labels), selected


def uniform_noise(labels: Tensor, rate: float, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Replace each label, with probability ``rate``, by a class drawn uniformly from all classes.

    This is the noise of the LAW paper: the true class can come back, so the expected share of wrong
    labels is ``rate * (1 - 1 / num_classes)``. The input is not modified and the global random state is
    neither read nor advanced.

    Args:
        labels: True labels, int64 [N], each in [0, num_classes).
        rate: Probability that a label is replaced, in [0, 1].
        num_classes: Number of classes C.
        seed: Decides, alone, which labels are replaced and by what.

    Returns:
        The noisy labels, int64 [N], and the sorted indices, int64 [M], of the labels that are now wrong.

    Raises:
        ValueError: For a rate outside [0, 1], or labels that are not int64 [N] in [0, num_classes).

    Example:
        >>> import torch
        >>> labels = torch.zeros(1000, dtype=torch.int64)
        >>> noisy, changed = uniform_noise(labels, rate=0.4, num_classes=10, seed=0)
        >>> bool((noisy[changed] != labels[changed]).all()), 0.3 < len(changed) / 1000 < 0.42
        (True, True)
    """
    noisy, _ = _draw_uniform_noise(labels, rate, num_classes, seed)
    return noisy, (noisy != labels).nonzero().flatten()


@dataclass(frozen=True, eq=False)
class CorruptionRecord:
    """What a corruption did to the training labels. For analysis only: it holds the true labels.

    Attributes:
        labels: The labels the network trains on, int64 [N].
        true_labels: The labels before the corruption, int64 [N].
        indices: Sorted indices of the samples whose label is now wrong, int64 [M].
        selected: Sorted indices of the samples the corruption chose, int64 [S]; it contains ``indices``,
            and those whose true class came back.
        name: Name of the corruption.
        rate: Probability that a sample was selected.
        seed: Seed of the corruption.
    """

    labels: Tensor
    true_labels: Tensor
    indices: Tensor
    selected: Tensor
    name: str
    rate: float
    seed: int

    def save(self, path: str | Path) -> None:
        """Write the record to ``path``: tensors and plain Python values only."""
        fields = {name: getattr(self, name) for name in (*_TENSOR_FIELDS, *_PLAIN_FIELDS)}
        torch.save({"format": _FORMAT, **fields}, path)

    @classmethod
    def load(cls, path: str | Path) -> CorruptionRecord:
        """Read a record that :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged or holds something else.
        """
        try:
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise  # a missing or unreadable file says so itself
        except Exception as error:  # bytes that are no record can fail in any way inside the unpickler
            raise ValueError(
                f"{path} cannot be read as a corruption record: it is damaged or another kind of file. "
                "Write it again with CorruptionRecord.save."
            ) from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(
                f"{path} is readable but holds no corruption record. Give a file that CorruptionRecord.save wrote."
            )
        kinds = dict.fromkeys(_TENSOR_FIELDS, Tensor) | _PLAIN_FIELDS
        wrong = [name for name, kind in kinds.items() if not isinstance(content.get(name), kind)]
        if wrong:
            raise ValueError(
                f"{path} is a damaged corruption record: the fields {wrong} are missing or of the wrong "
                "type. Write it again with CorruptionRecord.save."
            )
        return cls(**{name: content[name] for name in kinds})


@dataclass(frozen=True)
class UniformNoise:
    """The corruption :func:`uniform_noise` as a configured callable for a data module.

    Attributes:
        rate: Probability that a label is replaced, in [0, 1].
        seed: Decides which labels are replaced and by what.
    """

    rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def __call__(self, labels: Tensor, num_classes: int) -> CorruptionRecord:
        """Corrupt ``labels``, int64 [N], and return what was done."""
        noisy, selected = _draw_uniform_noise(labels, self.rate, num_classes, self.seed)
        return CorruptionRecord(
            labels=noisy,
            # A copy: the record stays true even if the caller later writes into its labels.
            true_labels=labels.clone(),
            indices=(noisy != labels).nonzero().flatten(),
            selected=selected.nonzero().flatten(),
            name="uniform_noise",
            rate=float(self.rate),
            seed=int(self.seed),
        )
