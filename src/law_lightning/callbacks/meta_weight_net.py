"""Meta-Weight-Net (Shu et al., NeurIPS 2019, arXiv 1902.07379) for any LightningModule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from law_lightning.callbacks.checks import refuse_second_network
from law_lightning.callbacks.weighting import WeightingCallback
from law_lightning.capture.part import Part
from law_lightning.capture.samples import Samples
from law_lightning.second_network.clean_gradient import CleanGradient
from law_lightning.weighting.base import unweighted


class WeightNet(nn.Module):
    """V: a sample's loss to its weight in (0, 1), through one hidden layer.

    Args:
        hidden: its width; 100 as published.
    """

    def __init__(self, hidden: int = 100) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid())

    def forward(self, loss: Tensor) -> Tensor:
        """Losses [B] to weights [B]."""
        with torch.autocast(loss.device.type, enabled=False):
            weights: Tensor = self.layers(loss.float().unsqueeze(1))
        return weights.squeeze(1)


class MetaWeightNetCallback(WeightingCallback):
    r"""``Trainer(callbacks=[MetaWeightNetCallback()])``: a small network learns what weight a loss should have.

    At every step, with V of parameters :math:`\Theta` and a rate :math:`\alpha`, the optimizer's present one:

    .. math::
        \hat w &= w - \frac{\alpha}{n} \sum_i V(L_i(w); \Theta) \nabla L_i(w) \\
        \Theta &\leftarrow \Theta - \beta \nabla_\Theta L_{clean}(\hat w), \qquad
        \nabla_\Theta L_{clean}(\hat w) = -\frac{\alpha}{n} \sum_i
        \langle \nabla L_{clean}(\hat w), \nabla L_i(w) \rangle \nabla_\Theta V(L_i(w); \Theta)

    and the samples weigh :math:`V(L_i(w); \Theta)` (Equations 3 to 5 and 10 of the paper; V's optimizer is Adam). The
    products are one directional derivative, so no layer is rebuilt and no second-order graph is kept. The look-ahead is
    plain SGD whatever the module's optimizer is, as published, on the mean as the module's loss takes it (n is what it
    divides by: the samples with a label, or the sum of their class weights).

    Where a step has several losses, V learns from the first and weighs all. A gradient that is not finite is skipped.
    On several processes the gradients are means over all of them.

    Args:
        clean: see :class:`L2RWCallback`.
        hidden: width of V's hidden layer.
        lr: beta, V's learning rate.
        weight_decay: of V.
        seed: of the clean batches' order and of V.
        num_stages: of the history's records.
        warmup_stages: the first stages, in which every sample weighs 1.
        smoothing: see :class:`WeightingCallback`.
        total_steps: optimizer steps to cut into stages (see :class:`WeightingCallback`).
        options: ``clean_batch_size`` and ``products``, see
            :class:`~law_lightning.second_network.clean_gradient.CleanGradient`.

    Attributes:
        weight_net: V.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        clean: DataLoader[Any] | None = None,
        *,
        hidden: int = 100,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        seed: int = 0,
        num_stages: int = 20,
        warmup_stages: int = 0,
        smoothing: float = 0.5,
        total_steps: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            unweighted,
            num_stages=num_stages,
            warmup_stages=warmup_stages,
            smoothing=smoothing,
            total_steps=total_steps,
        )
        self._clean = CleanGradient(type(self).__name__, clean, seed=seed, **options)
        if hidden < 1 or not lr > 0 or not weight_decay >= 0:
            raise ValueError(
                f"hidden must be at least 1, lr above 0, weight_decay at least 0, not {hidden}, {lr}, {weight_decay}."
            )
        self.hidden = hidden
        self.lr = lr
        self.weight_decay = weight_decay
        self.seed = seed
        self._build()

    def _build(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.weight_net = WeightNet(self.hidden)
        self.optimizer = torch.optim.Adam(self.weight_net.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    @property
    def attached(self) -> bool:
        """The look-ahead needs the gradient of the step's own losses."""
        return True

    @property
    def parts(self) -> dict[str, Part]:
        """Gradients on clean data beside the step."""
        return {"clean": self._clean}

    def check(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Raise an error where no copy of the module can run beside it."""
        refuse_second_network(trainer, module, type(self).__name__)

    def prepare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Begin with a new V."""
        self._build()
        self.weight_net.to(trainer.strategy.root_device)
        self._groups = trainer.optimizers[0].param_groups

    def weights(self, samples: Samples) -> Tensor:
        """Weights [B] in (0, 1); 0 where a loss is not finite."""
        if self._clean.begins_step():
            self._learn(samples)
        with torch.no_grad():
            weights: Tensor = self.weight_net(samples.loss)
        return weights.where(samples.loss.isfinite(), 0)

    def _learn(self, samples: Samples) -> None:
        """One step of V (Equations 3 to 5), on the first loss of a step."""
        rates = learning_rates(self._groups, self._clean.parameters())
        with torch.no_grad():
            value = self.weight_net(samples.loss)
        step = self._clean.step_gradient((value * samples.loss / samples.divisor).sum())
        parameters = self._clean.parameters()
        ahead = [w.detach() - rate * each for w, rate, each in zip(parameters, rates, step, strict=True)]
        clean = self._clean.next_gradient(at=ahead)
        products = self._clean.products([rate * each for rate, each in zip(rates, clean, strict=True)])[0]
        surrogate = -(self.weight_net(samples.loss.detach()) * products / samples.divisor).sum()
        # Its gradient by Theta is that of the clean loss at w-hat.
        gradients = self._clean.mean(torch.autograd.grad(surrogate, list(self.weight_net.parameters())))
        if not torch.nn.utils.get_total_norm(gradients).isfinite():
            return
        for parameter, gradient in zip(self.weight_net.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()

    def finish(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Take V off the accelerator."""
        self._groups = []
        self.weight_net.cpu()

    def extra_state(self) -> dict[str, Any]:
        """V and its optimizer."""
        net = {name: tensor.cpu().clone() for name, tensor in self.weight_net.state_dict().items()}
        return {"weight_net": net, "weight_net_optimizer": self.optimizer.state_dict()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`extra_state`."""
        self.weight_net.load_state_dict(state["weight_net"])
        self.optimizer.load_state_dict(state["weight_net_optimizer"])


def learning_rates(groups: Sequence[dict[str, Any]], parameters: Sequence[Tensor]) -> list[float]:
    """An optimizer's present learning rate for each parameter; 0 for one that it does not train."""
    rates = {id(parameter): float(group["lr"]) for group in groups for parameter in group["params"]}
    return [rates.get(id(parameter), 0.0) for parameter in parameters]
