"""Meta-Weight-Net (Shu et al., NeurIPS 2019, arXiv 1902.07379) for anyone's module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from law_lightning.callbacks.clean_gradient import CleanGradientCallback
from law_lightning.capture.samples import Samples


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


class MetaWeightNetCallback(CleanGradientCallback):
    r"""``Trainer(callbacks=[MetaWeightNetCallback()])``: a small network learns what weight a loss should have.

    At every step, with V of parameters :math:`\Theta` and a rate :math:`\alpha`, the optimizer's present one:

    .. math::
        \hat w &= w - \frac{\alpha}{n} \sum_i V(L_i(w); \Theta) \nabla L_i(w) \\
        \Theta &\leftarrow \Theta - \beta \nabla_\Theta L_{clean}(\hat w), \qquad
        \nabla_\Theta L_{clean}(\hat w) = -\frac{\alpha}{n} \sum_i
        \langle \nabla L_{clean}(\hat w), \nabla L_i(w) \rangle \nabla_\Theta V(L_i(w); \Theta)

    and the samples weigh :math:`V(L_i(w); \Theta)` (Equations 3 to 5 and 10 of the paper; beta's step is Adam's). The
    products are one forward-mode derivative, so no layer is rebuilt and no graph of a graph is kept. The look-ahead is
    plain SGD whatever the module's optimizer is, as published, on the mean as the module's loss takes it (n is what it
    divides by: the samples with a label, or the sum of their class weights).

    Where a step has several losses, V learns from the first and weighs all. Whatever is not finite teaches nothing.
    On several processes the gradients are means over all of them.

    Args:
        clean: see :class:`CleanGradientCallback`.
        hidden: width of V's hidden layer.
        lr: beta, V's learning rate.
        weight_decay: of V.
        **options: see :class:`CleanGradientCallback`.

    Attributes:
        weight_net: V.
    """

    def __init__(
        self,
        clean: DataLoader[Any] | None = None,
        *,
        hidden: int = 100,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        **options: Any,
    ) -> None:
        super().__init__(clean, **options)
        if hidden < 1 or not lr > 0 or not weight_decay >= 0:
            raise ValueError(
                f"hidden must be at least 1, lr above 0, weight_decay at least 0, not {hidden}, {lr}, {weight_decay}."
            )
        self.hidden = hidden
        self.lr = lr
        self.weight_decay = weight_decay
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

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with a new V."""
        self._build()
        self.weight_net.to(trainer.strategy.root_device)
        self._options = trainer.optimizers[0].param_groups
        super().on_train_start(trainer, pl_module)

    def weights(self, samples: Samples, position: int) -> Tensor:
        """Weights [B] in (0, 1); 0 where a loss is not finite."""
        if position == 0:
            self._learn(samples)
        with torch.no_grad():
            weights: Tensor = self.weight_net(samples.loss)
        return weights.where(samples.loss.isfinite(), 0)

    def _learn(self, samples: Samples) -> None:
        """One step of V."""
        assert self._batches is not None
        assert self._probe is not None
        parameters = self._probe.parameters()
        rates = self._rates(parameters)
        ahead = self._look_ahead(samples, parameters, rates)
        clean = self.shared(self._probe.gradient(self._batches.take(), at=ahead))
        direction = [gradient * rate for gradient, rate in zip(clean, rates, strict=True)]
        products = self.products_along(direction)[0].float()
        with torch.enable_grad():
            value = self.weight_net(samples.loss.detach())
            surrogate = -(value * products / samples.divisor).sum()  # its gradient by Theta is that of the clean loss
            gradients = self.shared(torch.autograd.grad(surrogate, list(self.weight_net.parameters())))
        if not torch.stack([gradient.isfinite().all() for gradient in gradients]).all():
            return
        for parameter, gradient in zip(self.weight_net.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()

    def _look_ahead(self, samples: Samples, parameters: Sequence[Tensor], rates: Sequence[float]) -> list[Tensor]:
        """w-hat: the parameters after a plain step with the weights of V as it is."""
        with torch.no_grad():
            value = self.weight_net(samples.loss)
        with torch.enable_grad():
            loss = (value * samples.loss / samples.divisor).sum()
        assert self._probe is not None
        gradients = self.shared(self._probe.gradient_of(loss, parameters, retain_graph=True))
        return [
            parameter.detach() - rate * gradient
            for parameter, gradient, rate in zip(parameters, gradients, rates, strict=True)
        ]

    def _rates(self, parameters: Sequence[Tensor]) -> list[float]:
        """The optimizer's present learning rate for each parameter."""
        rates = {id(parameter): float(group["lr"]) for group in self._options for parameter in group["params"]}
        return [rates.get(id(parameter), 0.0) for parameter in parameters]

    # -- state ---------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Take V off the accelerator."""
        super().release()
        self._options = []
        self.weight_net.cpu()

    def fit_state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors and plain Python."""
        net = {name: tensor.cpu().clone() for name, tensor in self.weight_net.state_dict().items()}
        return super().fit_state() | {"weight_net": net, "weight_net_optimizer": self.optimizer.state_dict()}

    def _resume(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        super()._resume(trainer, module, state)
        self._load_weight_net(state)

    def load_results(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        """Take over what a fit came to that has ended, V too."""
        super().load_results(trainer, module, state)
        self._load_weight_net(state)

    def _load_weight_net(self, state: dict[str, Any]) -> None:
        self.weight_net.load_state_dict(state["weight_net"])
        self.optimizer.load_state_dict(state["weight_net_optimizer"])
