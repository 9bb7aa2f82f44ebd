"""What the strategy learns from and its two losses, as functions of networks and transitions (Equations 10 to 13)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from law_lightning import functional as LF
from law_lightning.agent.networks import Actor, Critic, StageEmbedding
from law_lightning.agent.replay import Returns, Transitions, n_step_transitions

#: Of a reward that is learned from. Adam squares gradients; beyond what float32 holds it would never learn again.
MOST_REWARD = 1e9


class Networks(NamedTuple):
    """Those that learn, or their target networks."""

    embedding: StageEmbedding
    actor: Actor
    critic: Critic

    def state(self, stage: Tensor, phase: Tensor) -> Tensor:
        """s_T = [e_T, l_smooth, acc_smooth] (Equation 5): stages [M, N] and phases [M, N, 2] -> [M, N, d + 2]."""
        return torch.cat([self.embedding(stage), phase], dim=-1)

    def value(self, stage: Tensor, phase: Tensor) -> Tensor:
        """Q(s, mu(s)), [M, N]."""
        state = self.state(stage, phase)
        value: Tensor = self.critic(state, self.actor(state))
        return value


@torch.no_grad()
def td_target(networks: Networks, batch: Returns) -> Tensor:
    """The y of Equation 12, by the target networks if there are any, [M, N]."""
    value = torch.zeros_like(batch.reward)
    ahead = ((batch.done == 0) & (batch.discount > 0)).any(dim=0)  # of all other rows nothing that follows counts
    if ahead.any():
        value[:, ahead] = networks.value(batch.next_stage[:, ahead], batch.next_phase[:, ahead])
    return LF.td_target(batch.reward, value, batch.done, batch.discount)


def critic_loss(networks: Networks, batch: Returns, target: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 11, [M], and the mean value, [M]."""
    value = networks.critic(networks.state(batch.stage, batch.phase), batch.theta)
    return LF.critic_loss(value, target), value.detach().mean(dim=-1)


def actor_loss(networks: Networks, batch: Returns, target: Tensor, imitation: float, penalty: float) -> Tensor:
    """Equation 13, and what is added to it where the weights of imitation and action penalty are not zero, [M].

    The gradient passes through the critic by way of theta alone: e_T is a constant there.
    """
    actor, state = networks.actor, networks.state(batch.stage, batch.phase)
    free = actor.free(state)
    theta = actor.bounded(free)
    value = networks.critic(state.detach(), theta)
    loss = LF.actor_loss(value)
    if imitation:
        worth = LF.imitation_weight(target - value)
        loss = loss + imitation * LF.imitation_loss(theta / actor.scale, batch.theta / actor.scale, worth)
    if penalty:
        loss = loss + penalty * free.square().mean(dim=(-2, -1))
    return loss


def prepared(transitions: Transitions, hparams: Mapping[str, Any]) -> Returns:
    """Sum up n steps of what a buffer holds, and scale what they earn.

    Raises:
        ValueError: numbers are so large, or no numbers, that no agent could learn from them.
    """
    steps = hparams["n_step"] or hparams["num_stages"]
    returns = n_step_transitions(transitions, steps, hparams["discount"])
    large = [n for n, c in returns._asdict().items() if not float(c.abs().max()) <= MOST_REWARD * steps]
    if large:
        raise ValueError(
            f"The replay buffer holds numbers of {' and '.join(large)} that are so large, or no numbers, that they "
            "would poison the strategy: scale the rewards down, or bound theta (theta_bound)."
        )
    if not hparams["standardize_rewards"]:
        return returns
    deviation = LF.deviation(returns.reward)
    return returns._replace(reward=returns.reward / (deviation or 1.0))  # rewards that do not vary stay as they are
