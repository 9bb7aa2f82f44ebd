"""What a training shows of each sample over its whole run, and which labels are therefore likely wrong."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from law_lightning import functional as LF
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.capture.part import Part
from law_lightning.utilities.processes import gathered_from_processes

#: Steps, and elements of their logits, that are kept before they are summed up: fewer operations in each step.
_STEPS, _ELEMENTS = 64, 2**24
#: Rows of the table, [10, N]: how often a sample was seen; sums of weight, margin, the part of the margin below 0 (as a
#: positive number) and right predictions; of its last step; and the class that most often had the largest logit in
#: place of its label, with its majority.
_SUMS = ("seen", "weight", "margin", "doubt", "right")
_ROWS = (*_SUMS, "last_margin", "last_loss", "given", "predicted", "votes")


class SampleDynamics(Part):
    """Sums over the training steps of each sample: 40 bytes a sample, the same in all processes.

    Of a step with several losses the first whose samples are known by index counts. A process adds its steps to those
    of the others at an epoch's end.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._table = torch.zeros(len(_ROWS), 0)
        self._steps: list[tuple[Tensor, ...]] = []  # of each index, loss, logits, target, validity and weights
        self._rows: list[tuple[Tensor, Tensor]] = []  # of this process: index [K] and columns [6, K]
        self._processes = 1
        self.many_labels = False  #: whether samples were left out as they have several labels

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A fit begins."""
        self._reset()
        self._processes = trainer.world_size

    def after_step(self, capture: LossCapture) -> None:
        """Keep what the step shows of its samples."""
        for samples, weights in capture.weighed:
            if samples.index is None:
                continue
            if not samples.one_label:
                self.many_labels = True
                continue
            if self._steps and self._steps[-1][2].shape[1] != samples.num_classes:
                self._sum_up()
            valid = torch.ones_like(samples.target, dtype=torch.bool) if samples.valid is None else samples.valid
            weights = torch.ones_like(samples.loss) if weights is None else weights
            # The logits may be a view, such as of those at all positions.
            step = (samples.index, samples.loss, samples.logits.clone(), samples.target, valid, weights)
            self._steps.append(step)
            if len(self._steps) * samples.logits.numel() >= _ELEMENTS or len(self._steps) >= _STEPS:
                self._sum_up()
            return

    def _sum_up(self) -> None:
        """Make rows of the steps that are kept, and add them to the table unless other processes have some too."""
        if not self._steps:
            return
        index, loss, logits, given, valid, weight = map(torch.cat, zip(*self._steps, strict=True))
        self._steps = []
        margin, predicted = LF.margin(logits.float(), given), logits.argmax(dim=1)
        columns = torch.stack([each.float() for each in (weight, margin, predicted == given, loss, given, predicted)])
        index, columns, valid = index.cpu(), columns.cpu(), valid.cpu()
        self._rows.append((index[valid], columns[:, valid]))
        if self._processes == 1:
            self._join()

    def before_module_hook(self, hook: str, *args: Any) -> None:
        """Join the processes' parts at an epoch's end."""
        if hook == "on_train_epoch_end" and self._processes > 1:
            self._join()

    def _join(self) -> None:
        """Add the steps of all processes, by rank; a collective operation."""
        self._sum_up()
        mine: dict[str, Any] = {}
        if self._rows:
            index, columns = zip(*self._rows, strict=True)
            mine = {"index": torch.cat(index), "columns": torch.cat(columns, dim=1)}
        self._rows = []
        for each in gathered_from_processes(mine) if self._processes > 1 else [mine]:
            if each:
                self._add(each["index"], each["columns"])

    def _add(self, index: Tensor, columns: Tensor) -> None:
        if not len(index):
            return
        columns[:2] = columns[:2].nan_to_num()
        self._table = F.pad(self._table, (0, max(0, int(index.max()) + 1 - self._table.shape[1])))
        weight, margin, right, *_ = columns
        doubt, one = (-margin).clamp_min(0.0), torch.ones_like(weight)
        self._table[: len(_SUMS)].index_add_(1, index, torch.stack([one, weight, margin, doubt, right]))
        # A sample may be in several of the steps, even twice in one: first all first times, then all second ones.
        order = index.argsort(stable=True)
        index, columns = index[order], columns[:, order]
        place = torch.arange(len(index))
        first = torch.ones_like(index, dtype=torch.bool)
        first[1:] = index[1:] != index[:-1]
        time = place - place.where(first, 0).cummax(dim=0).values
        for number in range(int(time.max()) + 1):
            self._update_last(index[time == number], columns[:, time == number])

    def _update_last(self, index: Tensor, columns: Tensor) -> None:
        """What belongs to the last step of samples, [K] without repetition, and the vote on their other class."""
        _, margin, right, loss, given, predicted = columns
        # Boyer and Moore's: the class most often predicted in place of the label, without a count for each class.
        before, votes = self._table[-2:, index]
        wrong = right == 0
        candidate = predicted.where(wrong & (votes == 0), before)
        votes = votes + torch.where(candidate == predicted, 1.0, -1.0) * wrong
        self._table[len(_SUMS) :, index] = torch.stack([margin, loss, given, candidate, votes])

    def table(self) -> dict[str, Tensor]:
        """What is known of each sample that was seen, [M] each, of all processes up to the last epoch's end.

        Returns:
            ``index`` in the training loader's dataset; ``seen``, how often; ``weight``, ``margin`` (the label's
            probability minus the largest other), ``doubt`` (how far the margin is below 0, 0 where it is not) and
            ``right`` (share of right predictions), means over the run; ``last_margin`` and ``last_loss``; ``given``,
            the label, and ``predicted``, the class most often predicted in place of it, or the label itself if there
            was none.
        """
        if self._processes == 1:
            self._join()
        rows = dict(zip(_ROWS, self._table, strict=True))
        index = rows["seen"].nonzero().squeeze(1)
        rows = {name: row[index] for name, row in rows.items()}
        seen, given = rows["seen"], rows["given"].long()
        disputed = rows["right"] < seen
        means = {name: rows[name] / seen for name in _SUMS[1:]}
        last = {name: rows[name] for name in ("last_margin", "last_loss")}
        predicted = rows["predicted"].long().where(disputed, given)
        return {"index": index, "seen": seen.long(), **means, **last, "given": given, "predicted": predicted}

    def suspects(self, k: int | None = None) -> list[dict[str, Any]]:
        """See :meth:`law_lightning.callbacks.weighting.WeightingCallback.suspects`."""
        table = self.table()
        score = table["doubt"]
        found = score.argsort(descending=True, stable=True)
        found = found[table["margin"][found] < 0] if k is None else found[:k]
        columns = [table["index"], table["given"], table["predicted"], score]
        names = ("index", "given", "predicted", "score")
        return [
            dict(zip(names, values, strict=True))
            for values in zip(*(column[found].tolist() for column in columns), strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """The table; a collective operation."""
        self._join()
        return {"table": self._table.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`.

        Raises:
            ValueError: it is no such table.
        """
        table = state["table"]
        if table.ndim != 2 or len(table) != len(_ROWS) or table.dtype != torch.float32:
            raise ValueError("its table of samples has another form")
        self._table = table.to("cpu", copy=True)
