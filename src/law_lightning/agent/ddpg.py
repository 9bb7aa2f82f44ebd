"""DDPG: one critic step and one actor step on a batch of transitions (Equations 10 to 13)."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from law_lightning import functional as LF
from law_lightning.agent.backprop import narrow_product
from law_lightning.agent.batches import Batch, PackedTransitions
from law_lightning.agent.learner import Learner, Modules, Views
from law_lightning.agent.networks import Actor, Critic, action_scale
from law_lightning.agent.replay import Transitions, n_step_transitions

#: Of a reward that is learned from. Adam squares gradients; beyond what float32 holds it would never learn again.
MOST_REWARD = 1e9


class DDPG(L.LightningModule):
    """Actor, critic and stage embedding with their update; hyper-parameters are in ``hparams``."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False  # one critic step and one actor step a batch
        self._learner: Learner | None = None
        self._prepared: PackedTransitions | None = None

    def build(self, action_dim: int) -> None:
        """Make the networks, from the global random state."""
        stages, width, hidden = self.hparams["num_stages"], self.hparams["embedding_dim"], self.hparams["hidden"]
        scale = action_scale(action_dim, self.hparams["feature_scale"])
        state_dim = width + 2
        self.embedding = nn.Embedding(stages, width)  # Gaussian initialised (Equation 5)
        self.actor = Actor(state_dim, scale, hidden, self.hparams["theta_bound"], self.hparams["zero_init"])
        self.critic = Critic(state_dim, action_dim, hidden)
        if self.hparams["target_rate"] is not None:
            self.target_embedding = copy.deepcopy(self.embedding).requires_grad_(False)
            self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
            self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)

    @staticmethod
    def _state(embedding: nn.Module, stage: Tensor, phase: Tensor) -> Tensor:
        """s_T = [e_T, l_smooth, acc_smooth] (Equation 5), [N, d + 2]."""
        return torch.cat([embedding(stage), phase], dim=1)

    def learner(self) -> Learner:
        """The parameters laid out for the update, as they are now."""
        if self._learner is None:
            slow = None
            if self.hparams["target_rate"] is not None:
                slow = Modules(self.target_critic, self.target_actor, self.target_embedding)
            rates = self.hparams["critic_lr"], self.hparams["actor_lr"]
            self._learner = Learner(Modules(self.critic, self.actor, self.embedding), slow, rates)
        self._learner.refresh()
        return self._learner

    def configure_optimizers(self) -> list[torch.optim.Adam]:
        """Adam for the critic and for actor and embedding; the same two for as long as the agent lives."""
        return self.learner().optimizers

    def __getstate__(self) -> bytes:  # type: ignore[override]
        # As one: torch sends each tensor to another process as a file that stays open, of memory that both share.
        states = None
        if self._learner is not None:
            states = self.learner().optimizer_states()
            self._learner.release()
        return pickle.dumps(super().__getstate__() | {"_learner": states})

    def __setstate__(self, state: bytes) -> None:
        fields = pickle.loads(state)
        super().__setstate__(fields | {"_learner": None})  # type: ignore[no-untyped-call]
        if fields["_learner"] is not None:
            self.learner().load_optimizer_states(fields["_learner"])

    def imitation(self) -> float:
        """The weight of imitation in the next update."""
        raise NotImplementedError

    # -- the update ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _update(
        self, batch: Batch, steps: Sequence[Callable[[], Any]], imitation: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One critic step (Equations 10 to 12), one actor step (Equation 13 and what is added to it).

        Args:
            batch: N transitions; the room in its inputs is written to.
            steps: of the critic's optimizer and of the actor's, which find the gradients in place.
            imitation: weight of the imitation in the actor's loss.

        Returns:
            N times the critic's loss, the actor's loss and mean Q.
        """
        learner = self._learner
        assert learner is not None  # configure_optimizers made it
        networks, count, width = learner.networks, len(batch.reward), self.embedding.embedding_dim
        torch.index_select(networks.embedding, 0, batch.stage, out=batch.inputs[:, :width])

        y = self._td_target(batch, learner.targets)
        critic = networks.critic
        q = critic.forward(batch.inputs)
        q_sum = q.sum()
        error = q.squeeze(1) - y
        squares = torch.dot(error, error)  # N times LF.critic_loss
        gradient = critic.backward(error.mul_(2 / count).unsqueeze(1), learn=True)
        networks.embedding_gradient.zero_()
        if self.hparams["embedding_loss"] == "both":
            gradient = narrow_product(gradient, critic.layers[0].weight[:, :width])
            networks.embedding_gradient.index_add_(0, batch.stage, gradient)
        steps[0]()

        # The actor's gradient passes through the critic by way of theta alone (Equation 13): e_T is a constant there.
        theta = batch.inputs[:, width + 2 :]
        taken = theta.clone() if imitation else None
        free = networks.actor.forward(batch.inputs[:, : width + 2]) * self.actor.scale
        theta.copy_(self.actor.bounded(free))
        value = critic.forward(batch.inputs).squeeze(1)
        loss = -value.sum()  # N times LF.actor_loss
        gradient = critic.backward(y.new_full((1, count), -1 / count).t(), learn=False)
        gradient = narrow_product(gradient, critic.layers[0].weight[:, width + 2 :])
        if taken is not None:  # distances are measured in units of the actor's scale
            apart = (theta - taken) / self.actor.scale
            pull = apart * LF.imitation_weight(y - value).unsqueeze(1)
            loss += torch.dot(pull.reshape(-1), apart.reshape(-1)) * (imitation / 2)  # N times LF.imitation_loss
            gradient.add_(pull / self.actor.scale, alpha=imitation / count)
        if self.actor.bound is not None:
            gradient *= 1 - (theta / self.actor.bound).square()
        penalty = self.hparams["action_penalty"]
        if penalty:
            loss += torch.dot(free.t().reshape(-1), free.t().reshape(-1)) * (penalty / free.shape[1])
            gradient.add_(free, alpha=2 * penalty / free.numel())
        gradient = networks.actor.backward(gradient * self.actor.scale, learn=True)
        gradient = narrow_product(gradient, networks.actor.layers[0].weight[:, :width])
        networks.embedding_gradient.index_add_(0, batch.stage, gradient)
        steps[1]()

        if self.hparams["target_rate"] is not None:
            learner.follow(self.hparams["target_rate"])
        return squares, loss, q_sum

    def _td_target(self, batch: Batch, networks: Views) -> Tensor:
        """The y of Equation 12, [N]; only rows with a future are looked into."""
        ahead = batch.bootstrap
        if ahead is None:
            return batch.reward
        width = self.embedding.embedding_dim
        torch.index_select(networks.embedding, 0, ahead.stage, out=ahead.inputs[:, :width])
        free = networks.actor.forward(ahead.inputs[:, : width + 2]) * self.actor.scale
        ahead.inputs[:, width + 2 :].copy_(self.actor.bounded(free))
        value = networks.critic.forward(ahead.inputs).squeeze(1)
        return batch.reward.index_copy(0, ahead.rows, LF.td_target(ahead.reward, value, ahead.done, ahead.discount))

    # -- the Trainer's way -----------------------------------------------------------------------------------

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """One batch of transitions, for ``Trainer().fit(agent, buffer.dataloader(...))``."""
        rows = batch[-1]
        assert self._prepared is not None
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        (packed,) = self._prepared.batches(rows, len(rows))
        sums = self._update(packed, [optimizer.step for optimizer in optimizers], self.imitation())
        names = ("agent/critic_loss", "agent/actor_loss", "agent/q_mean")
        self.log_dict({name: value / len(rows) for name, value in zip(names, sums, strict=True)})

    def on_train_start(self) -> None:
        """Prepare the transitions of the Trainer's loader as a full data update does."""
        if self.trainer.world_size > 1 or self.trainer.precision != "32-true":
            raise MisconfigurationException(
                f"A StrategyAgent trains in one process and in float32: Trainer(devices=1, precision='32-true'), not "
                f"{self.trainer.world_size} processes and {self.trainer.precision!r}."
            )
        loader = self.trainer.train_dataloader
        data = loader.dataset if isinstance(loader, DataLoader) else None
        if not isinstance(data, TensorDataset) or len(data.tensors) != len(Transitions._fields) + 1:
            raise MisconfigurationException(
                "A StrategyAgent trains on transitions: Trainer().fit(agent, buffer.dataloader()) with a ReplayBuffer."
            )
        self._prepared = self._prepare(Transitions(*data.tensors[:-1])).to(self.device)

    def on_train_end(self) -> None:
        """Let go of the prepared transitions."""
        self._prepared = None

    # -- what is learned from --------------------------------------------------------------------------------

    def _prepare(self, transitions: Transitions) -> PackedTransitions:
        """Sum up n steps of what a buffer holds, and scale what they earn."""
        self.check_fit(transitions)
        steps = self.hparams["n_step"] or self.hparams["num_stages"]
        transitions, discount = n_step_transitions(transitions, steps, self.hparams["discount"])
        large = [n for n, c in transitions._asdict().items() if not float(c.abs().max()) <= MOST_REWARD * steps]
        if large:
            raise ValueError(
                f"The replay buffer holds numbers of {' and '.join(large)} that are so large, or no numbers, that they "
                "would poison the strategy: scale the rewards down, or bound theta (theta_bound)."
            )
        if self.hparams["standardize_rewards"]:
            deviation = LF.deviation(transitions.reward)
            # Rewards that do not vary stay as they are.
            transitions = transitions._replace(reward=transitions.reward / (deviation or 1.0))
        return PackedTransitions(transitions, discount, self.hparams["embedding_dim"])

    def check_fit(self, transitions: Transitions) -> None:
        """Raise a ValueError unless transitions, at least one, are of an agent with these features and stages."""
        width = transitions.theta.shape[1]
        stages = int(max(transitions.stage.max(), transitions.next_stage.max())) + 1
        expected, most = len(self.hparams["features"]) + 1, self.hparams["num_stages"]
        if width != expected or stages > most:
            raise ValueError(
                f"The replay buffer is of another agent: its theta has {width} entries and its stages go up to "
                f"{stages - 1}; this agent's have {expected} and {most - 1}."
            )
