"""DDPG: one critic step and one actor step on a batch of transitions (Equations 10 to 13)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from law_lightning import functional as LF
from law_lightning.agent.networks import Actor, Critic
from law_lightning.agent.replay import Transitions


class DDPG(L.LightningModule):
    """Actor, critics and stage embedding with their update; hyper-parameters are in ``hparams``."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False  # one critic step and one actor step a batch
        self._optimizers: list[torch.optim.Optimizer] | None = None

    def build(self, action_dim: int) -> None:
        """Make the networks, from the global random state."""
        stages, width, hidden = self.hparams["num_stages"], self.hparams["embedding_dim"], self.hparams["hidden"]
        state_dim, critics = width + 2, 1 + self.hparams["twin_critics"]
        self.embedding = nn.Embedding(stages, width)  # Gaussian initialised (Equation 5)
        self.actor = Actor(state_dim, action_dim, hidden, self.hparams["theta_bound"])
        self.critics = nn.ModuleList(Critic(state_dim, action_dim, hidden) for _ in range(critics))
        if self.hparams["target_rate"] is not None:
            self.target_embedding = copy.deepcopy(self.embedding).requires_grad_(False)
            self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
            self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)

    @staticmethod
    def _state(embedding: nn.Module, stage: Tensor, phase: Tensor) -> Tensor:
        """s_T = [e_T, l_smooth, acc_smooth] (Equation 5), [N, d + 2]."""
        return torch.cat([embedding(stage), phase], dim=1)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the critic and for actor and embedding; the same two for as long as the agent lives."""
        if self._optimizers is None:
            actor = [*self.actor.parameters(), *self.embedding.parameters()]
            self._optimizers = [
                torch.optim.Adam(self.critics.parameters(), lr=self.hparams["critic_lr"], fused=True),
                torch.optim.Adam(actor, lr=self.hparams["actor_lr"], fused=True),
            ]
        return self._optimizers

    def _update(
        self,
        batch: Transitions,
        discount: Tensor,
        optimizers: Sequence[Any],
        backward: Callable[[Tensor], Any],
    ) -> Tensor:
        """One critic step (Equations 10 to 12), one actor step (Equation 13); returns both losses and mean Q."""
        critic_optimizer, actor_optimizer = optimizers
        # The critic sees a detached e_T: the embedding is the actor's to learn.
        state = self._state(self.embedding, batch.stage, batch.phase)
        fixed = state.detach()

        y = self._td_target(batch, discount)
        values = [critic(fixed, batch.theta) for critic in self.critics]
        critic_loss = torch.stack([LF.critic_loss(value, y) for value in values]).sum()
        critic_optimizer.zero_grad()
        backward(critic_loss)
        critic_optimizer.step()

        self.critics.requires_grad_(False)  # the actor's gradient passes through the critic, but not to it
        free = self.actor.network(state)
        actor_loss = LF.actor_loss(self.critics[0](fixed, self.actor.bounded(free)))
        if self.hparams["action_penalty"]:
            actor_loss = actor_loss + self.hparams["action_penalty"] * free.square().mean()
        actor_optimizer.zero_grad()
        backward(actor_loss)
        actor_optimizer.step()
        self.critics.requires_grad_(True)

        self._follow()
        return torch.stack([critic_loss.detach(), actor_loss.detach(), values[0].detach().mean()])

    @torch.no_grad()
    def _td_target(self, batch: Transitions, discount: Tensor) -> Tensor:
        """The y of Equation 12, with the lower of two critics."""
        slow = self.hparams["target_rate"] is not None
        embedding = self.target_embedding if slow else self.embedding
        actor = self.target_actor if slow else self.actor
        critics = self.target_critics if slow else self.critics
        state = self._state(embedding, batch.next_stage, batch.next_phase)
        theta = actor(state)
        value = torch.stack([critic(state, theta) for critic in critics]).amin(dim=0)
        return LF.td_target(batch.reward, value, batch.done, discount)

    @torch.no_grad()
    def _follow(self) -> None:
        if self.hparams["target_rate"] is None:
            return
        for slow, fast in (
            (self.target_embedding, self.embedding),
            (self.target_actor, self.actor),
            (self.target_critics, self.critics),
        ):
            torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), self.hparams["target_rate"])
