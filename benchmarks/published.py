"""The published implementations of compared methods, for ``methods.py``: from clones, never part of this repository."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

#: One training step on a batch.
Peer = Callable[[Tensor, Tensor], None]

#: The plain step that each is compared with; that of Co-teaching's own networks is a plain step of ours.
PEERS = {
    "published layers, plain": "published layers, plain",
    "published l2rw": "published layers, plain",
    "published meta_weight_net": "published layers, plain",
    "published co_teaching": "published networks, plain",
    "published networks, plain": "published networks, plain",
}
LR = 0.01


def load_peers(folder: Path) -> dict[str, Callable[[], Peer]]:
    """Makers of the peers' steps, by name.

    Raises:
        SystemExit: a clone is missing.
    """
    layers = _load(folder / "meta-weight-net" / "resnet.py", "published_resnet")
    losses = _load(folder / "Co-teaching" / "loss.py", "published_loss")
    networks = _load(folder / "Co-teaching" / "model.py", "published_model")
    return {
        "published layers, plain": lambda: _plain(layers.ResNet32(10)),
        "published l2rw": lambda: _l2rw(layers),
        "published meta_weight_net": lambda: _meta_weight_net(layers),
        "published networks, plain": lambda: _plain(networks.CNN(3, 10)),
        "published co_teaching": lambda: _co_teaching(losses, networks),
    }


def _load(path: Path, name: str) -> ModuleType:
    if not path.is_file():
        raise SystemExit(f"There is no {path}: clone the published implementations named at the top into one folder.")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _optimizer(network: Any) -> torch.optim.Optimizer:
    parameters = network.params() if hasattr(network, "params") else network.parameters()
    return torch.optim.SGD(parameters, LR, momentum=0.9, weight_decay=2e-5)


def _plain(network: Any) -> Peer:
    optimizer = _optimizer(network.train())

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _l2rw(layers: ModuleType) -> Peer:
    """Its notebook's loop, on Meta-Weight-Net's ResNet-32."""
    network = layers.ResNet32(10).train()
    optimizer = _optimizer(network)

    def step(x: Tensor, y: Tensor) -> None:
        ahead = layers.ResNet32(10).train()
        ahead.load_state_dict(network.state_dict())
        cost = F.cross_entropy(ahead(x), y, reduction="none")
        weights = torch.zeros(len(x), requires_grad=True)
        gradients = torch.autograd.grad((cost * weights).sum(), list(ahead.params()), create_graph=True)
        ahead.update_params(LR, source_params=gradients)
        clean = F.cross_entropy(ahead(x), y)
        (gradient,) = torch.autograd.grad(clean, weights)
        found = (-gradient).clamp_min(0)
        found = found / found.sum() if found.sum() != 0 else found
        optimizer.zero_grad()
        (F.cross_entropy(network(x), y, reduction="none") * found).sum().backward()
        optimizer.step()

    return step


def _meta_weight_net(layers: ModuleType) -> Peer:
    """The loop of its script."""
    network, net = layers.ResNet32(10).train(), layers.VNet(1, 100, 1)
    optimizer = _optimizer(network)
    learner = torch.optim.Adam(net.params(), 1e-3, weight_decay=1e-4)

    def step(x: Tensor, y: Tensor) -> None:
        ahead = layers.ResNet32(10).train()
        ahead.load_state_dict(network.state_dict())
        cost = F.cross_entropy(ahead(x), y, reduction="none").view(-1, 1)
        mean = (cost * net(cost.data)).sum() / len(cost)
        gradients = torch.autograd.grad(mean, list(ahead.params()), create_graph=True)
        ahead.update_params(lr_inner=LR, source_params=gradients)
        clean = F.cross_entropy(ahead(x), y)
        learner.zero_grad()
        clean.backward()  # type: ignore[no-untyped-call]
        learner.step()
        cost = F.cross_entropy(network(x), y, reduction="none").view(-1, 1)
        with torch.no_grad():
            weights = net(cost)
        optimizer.zero_grad()
        ((cost * weights).sum() / len(cost)).backward()
        optimizer.step()

    return step


def _co_teaching(losses: ModuleType, networks: ModuleType) -> Peer:
    """The loop of its script, on its own networks."""
    both = [networks.CNN(3, 10).train() for _ in range(2)]
    optimizers = [_optimizer(network) for network in both]

    def step(x: Tensor, y: Tensor) -> None:
        index = np.arange(len(x))
        known = np.ones(len(x), dtype=bool)
        found = losses.loss_coteaching(both[0](x), both[1](x), y, 0.4, index, known)
        for optimizer, loss in zip(optimizers, found, strict=False):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def on_the_cpu(x: Tensor, y: Tensor) -> None:  # its loss calls .cuda()
        with patch.object(Tensor, "cuda", lambda tensor, *args, **kwargs: tensor):
            step(x, y)

    return on_the_cpu
