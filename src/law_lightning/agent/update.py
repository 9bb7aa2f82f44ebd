"""DDPG's update of the strategy, from the transitions in a buffer to the step of one batch (Equations 10 to 13)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.swa_utils import get_ema_multi_avg_fn

from law_lightning import functional as LF
from law_lightning._compat import UncheckedAdam
from law_lightning.agent.networks import Actor, Critic, StageEmbedding
from law_lightning.agent.replay import Returns, Transitions, n_step_transitions

#: Upper limit of rewards, and of theta: Adam squares gradients, and would not recover from a square beyond float32.
MAX_REWARD = 1e9


class Networks(NamedTuple):
    """The networks that learn, or their target networks."""

    embedding: StageEmbedding
    actor: Actor
    critic: Critic

    def state(self, stage: Tensor, phase: Tensor) -> Tensor:
        """s_T = [e_T, l_smooth, acc_smooth] (Equation 5): stages [M, N] and phases [M, N, 3] -> [M, N, d + 2].

        With a prior, which follows it, noise_smooth is part of the state: [M, N, d + 3].
        """
        numbers = phase[..., :2] if self.actor.prior is None else phase
        return torch.cat([self.embedding(stage), numbers], dim=-1)


def check_fit(transitions: Transitions, hparams: Mapping[str, Any]) -> None:
    """Raise a ValueError unless transitions, at least one, are of an agent with these features and stages."""
    width, own = transitions.theta.shape[1], len(hparams["features"]) + 1
    last = int(max(transitions.stage.max(), transitions.next_stage.max()))
    if width != own or last >= hparams["num_stages"]:
        raise ValueError(
            f"The replay buffer is of another agent: its theta has {width} entries and its stages go up to {last}; "
            f"this agent's have {own} and {hparams['num_stages'] - 1}."
        )


def prepared(transitions: Transitions, hparams: Mapping[str, Any]) -> Returns:
    """The n-step transitions of a buffer's, with scaled rewards.

    Raises:
        ValueError: they belong to another agent, or are NaN, infinite or so large that no agent could learn from them.
    """
    check_fit(transitions, hparams)
    steps = hparams["n_step"] or hparams["num_stages"]
    returns = n_step_transitions(transitions, steps, hparams["discount"])
    large = [n for n, c in returns._asdict().items() if not float(c.abs().max()) <= MAX_REWARD * steps]
    if large:
        raise ValueError(
            f"The replay buffer holds numbers of {' and '.join(large)} that are NaN, infinite or so large that no "
            "agent could learn from them: scale the rewards down, or bound theta (theta_bound)."
        )
    if not hparams["standardize_rewards"]:
        return returns
    deviation = LF.deviation(returns.reward)
    return returns._replace(reward=returns.reward / (deviation or 1.0))  # rewards that do not vary stay as they are


@torch.no_grad()
def critic_target(networks: Networks, batch: Returns) -> Tensor:
    """The y of Equation 12, by the target networks if there are any, [M, N].

    Where ``n_step`` is None a finished episode's y is its return alone: Q has nothing to estimate.
    """
    value = torch.zeros_like(batch.reward)
    ahead = ((batch.done == 0) & (batch.discount > 0)).any(dim=0)  # the rows whose y contains Q
    if ahead.any():
        state = networks.state(batch.next_stage[:, ahead], batch.next_phase[:, ahead])
        value[:, ahead] = networks.critic(state, networks.actor(state))
    return LF.td_target(batch.reward, value, batch.done, batch.discount)


@torch.enable_grad()
def learn(
    networks: Networks,
    targets: Networks | None,
    optimizers: Sequence[Adam | LightningOptimizer],
    batch: Returns,
    imitation: float,
    hparams: Mapping[str, Any],
) -> dict[str, Tensor]:
    """One batch of Algorithm 1, [M, N, ...]: a critic step, an actor step, and the target networks, if any, follow.

    The optimizers are of the critic, and of actor and embedding. Returns both losses and the mean Q, [M] each.
    """
    _, actor, critic = networks
    of_critic, of_actor = optimizers
    both = hparams["embedding_loss"] == "both"
    of_critic.zero_grad()
    of_actor.zero_grad()
    state = networks.state(batch.stage, batch.phase)
    constant = state.detach()

    # The critic descends the squared error (Equations 10 and 11) to y (Equation 12).
    target = critic_target(targets or networks, batch)
    value = critic(state if both else constant, batch.theta)
    critic_loss = LF.critic_loss(value, target)
    critic_loss.sum().backward(retain_graph=both)
    of_critic.step()

    # The actor ascends Q(s, mu(s)) by way of theta (Equation 13): there e_T is a constant for the critic.
    free = actor.free(state)
    theta = actor.theta(state, free)
    expected = critic(constant, theta)
    actor_loss = LF.actor_loss(expected)
    if imitation:
        worth, scale = LF.imitation_weight(target - expected), actor.scale
        actor_loss = actor_loss + imitation * LF.imitation_loss(theta / scale, batch.theta / scale, worth)
    if hparams["action_penalty"]:
        actor_loss = actor_loss + hparams["action_penalty"] * free.square().mean(dim=(-2, -1))
    actor_loss.sum().backward(inputs=of_actor.param_groups[0]["params"])
    of_actor.step()

    if targets is not None:
        slow, fast = ([p for network in each for p in network.parameters()] for each in (targets, networks))
        get_ema_multi_avg_fn(1 - hparams["target_rate"])(slow, fast, 0)
    return {
        "critic_loss": critic_loss.detach(), "actor_loss": actor_loss.detach(), "q_mean": value.detach().mean(dim=-1)
    }  # fmt: skip


def adam(parameters: Iterable[nn.Parameter], rate: float) -> Adam:
    """A fused Adam whose state exists, as zeros, before its first step, so that it always has the same tensors."""
    optimizer = UncheckedAdam(parameters, lr=rate, fused=True)
    for parameter in optimizer.param_groups[0]["params"]:
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.zeros(())} | moments
    return optimizer


def optimizer_state(agent: nn.Module, optimizers: Iterable[Adam]) -> dict[str, Tensor]:
    """The optimizers' state, by the agent's parameters: two moments [M, ...] and the number of steps."""
    return {
        f"{name}.{key}": tensor
        for name, parameter in agent.named_parameters()
        for optimizer in optimizers
        for key, tensor in optimizer.state.get(parameter, {}).items()
    }


@torch.no_grad()
def undo_where_diverged(now: dict[str, Tensor], before: dict[str, Tensor]) -> Tensor:
    """Undo an update of members in which it left a number that is not finite; which have none, [M] of bool."""
    numbers = torch.cat([tensor.flatten(1) for tensor in now.values() if tensor.ndim], dim=1)
    good = numbers.abs().amax(dim=1).isfinite()
    if good.all():
        return good
    for name, tensor in now.items():
        if tensor.ndim:
            tensor[~good] = before[name][~good]
        elif not good.any():  # all members share the number of steps
            tensor.copy_(before[name])
    return good
