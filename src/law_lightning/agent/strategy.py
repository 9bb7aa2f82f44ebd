"""The strategy: a DDPG agent that maps training phases to the parameters of a weighting function."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Adam

from law_lightning import functional as LF
from law_lightning.agent.exploration import Exploration
from law_lightning.agent.former import differences, save_strategy, upgraded
from law_lightning.agent.hyperparameters import checked
from law_lightning.agent.networks import Actor, Critic, StageEmbedding
from law_lightning.agent.replay import ReplayBuffer, Returns, Transitions, shuffles, transitions_of
from law_lightning.agent.update import Networks, adam, check_fit, learn, optimizer_state, prepared, undo_where_diverged
from law_lightning.utilities.files import is_finite, load_state
from law_lightning.utilities.randomness import reseed


class StrategyAgent(L.LightningModule):
    """Actor, critic and stage embedding with their update (Equations 4, 5, 10 to 13).

    A search with a single actor often stays near the first theta that did well. So there may be several members, in
    the first dimension of every parameter. All learn in every update and explore in turn, one in each episode. The
    first member's greedy theta is the strategy. The global random state is not touched.

    Args:
        num_stages: T_max.
        warmup_stages: the first stages, in which every sample weighs 1 and nothing is learned.
        features: the sample features that theta weighs, a subset of :data:`law_lightning.functional.KNOWN_FEATURES`.
        embedding_dim: d of the stage embedding e_T.
        hidden: widths of the hidden layers of actor and critic.
        theta_bound: theta lies in (-theta_bound, theta_bound); None leaves it free.
        actor_lr: Adam's learning rate for the actor and the stage embedding.
        critic_lr: Adam's learning rate for the critic.
        discount: gamma.
        target_rate: share by which target networks move towards the others after each batch; None: no target networks.
        standardize_rewards: divide rewards by their standard deviation over the buffer before they are learned from.
        epochs: E_n, passes over the whole buffer in a full data update, of all members together: each of M makes
            E_n / M, and its last pass may be over a random part.
        batch_size: B, transitions in a batch of each member.
        episode_noise: standard deviation of the exploration's offset of b, drawn once an episode; for the weights of
            features times ``feature_scale``.
        stage_noise: likewise of its noise, drawn at every stage.
        noise_decay: factor on both after an episode, in (0, 1].
        n_step: rewards that the critic's target sums before it adds Q, 1 in Equation 12; None: all that follow.
        action_penalty: weight of the mean square of the actor's output before the bound, against saturation there.
        imitation: weight, at first, of the pull towards thetas that paid more than the critic expects of the strategy's
            own (:func:`law_lightning.functional.imitation_loss`); it decays as the exploration does.
        members: M.
        phase_accuracy: whose accuracy acc_smooth is, ``"validation"`` (Equation 5) or ``"training"``. To
            apply a strategy, only the first needs validation data.
        relative_loss: measure l_smooth in units of log C, the loss of a uniform guess over C classes.
        feature_scale: scale of theta's weights of features relative to b, in learning and in exploring.
        zero_init: the actor's last layer starts at zero, so that a new strategy weighs every sample 1.
        embedding_loss: what the stage embedding learns from, the loss of the ``"actor"`` alone or of ``"both"``.
        init: where theta starts: ``"general"`` adds what is learned to the rule of that name
            (:func:`law_lightning.functional.general_theta`); None starts with weights of one.
        renormalize: whether the strategy's weights are divided by their mean over the batch.
        seed: of initialisation, exploration and shuffling.

    Attributes:
        updates: full data updates made so far.
        learned: stages of all workers that an update followed.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        num_stages: int = 20,
        features: Sequence[str] = LF.FEATURES,
        *,
        warmup_stages: int = 2,
        embedding_dim: int = 8,
        hidden: Sequence[int] = (64, 64, 64),
        theta_bound: float | None = 3.0,
        actor_lr: float = 6e-4,
        critic_lr: float = 1e-3,
        discount: float = 0.95,
        target_rate: float | None = None,
        standardize_rewards: bool = True,
        epochs: float = 1,
        batch_size: int = 128,
        episode_noise: float = 1.0,
        stage_noise: float = 0.3,
        noise_decay: float = 0.96,
        n_step: int | None = None,
        action_penalty: float = 0.1,
        imitation: float = 0.3,
        members: int = 3,
        phase_accuracy: Literal["validation", "training"] = "validation",
        relative_loss: bool = True,
        feature_scale: float = 0.3,
        zero_init: bool = True,
        embedding_loss: Literal["actor", "both"] = "actor",
        init: Literal["general"] | None = None,
        renormalize: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # one critic step and one actor step a batch
        self.save_hyperparameters()
        self.save_hyperparameters(checked(self.hparams))
        own = self.hparams
        self.num_stages: int = own["num_stages"]
        self.features = tuple(own["features"])
        self.warmup_stages: int = own["warmup_stages"]
        numbers = 2 if own["init"] is None else 3
        sizes = own["members"], own["embedding_dim"] + numbers, len(features) + 1, own["hidden"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(own["seed"])
            self.embedding = StageEmbedding(own["members"], own["num_stages"], own["embedding_dim"])
            prior = None if own["init"] is None else partial(LF.general_theta, features=self.features)
            self.actor = Actor(*sizes, own["theta_bound"], own["feature_scale"], own["zero_init"], prior)
            self.critic = Critic(*sizes)
        self._networks, self._targets = Networks(self.embedding, self.actor, self.critic), None
        if own["target_rate"] is not None:
            self._targets = copy.deepcopy(self._networks)
            self.target_embedding, self.target_actor, self.target_critic = self._targets
            for network in self._targets:
                network.requires_grad_(False)
        of_actor = [*self.actor.parameters(), *self.embedding.parameters()]
        self._adams = [adam(self.critic.parameters(), own["critic_lr"]), adam(of_actor, own["actor_lr"])]
        self.exploration = Exploration(
            self.actor.scale, own["episode_noise"], own["stage_noise"], own["noise_decay"], own["seed"] + 1
        )
        self.updates = self.learned = 0
        self._has_diverged = False
        self._generator = torch.Generator()

    def __getstate__(self) -> bytes:  # type: ignore[override]
        # As bytes: torch sends a tensor to another process in shared memory, which keeps a file open for each.
        return pickle.dumps(super().__getstate__())

    def __setstate__(self, state: bytes) -> None:
        super().__setstate__(pickle.loads(state))  # type: ignore[no-untyped-call]

    # -- acting --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(
        self, stage: int, loss_smooth: float, acc_smooth: float, explore: bool = False, noise_smooth: float = 0.0
    ) -> Tensor:
        """theta_T = mu(s_T) (Equation 4).

        Args:
            stage: T, from 0.
            loss_smooth: smoothed training loss, divided by log C if the agent's ``relative_loss`` says so.
            acc_smooth: smoothed accuracy of the agent's ``phase_accuracy``, in [0, 1].
            explore: take this episode's member, and add the episode's offset and fresh noise, within the bound.
            noise_smooth: smoothed :func:`law_lightning.functional.confident_error`; only ``init="general"`` uses it.

        Returns:
            theta, [F + 1]: one weight per feature, then b; float32 on the CPU.

        Raises:
            ValueError: there is no such stage.
        """
        if not 0 <= stage < self.num_stages:
            raise ValueError(f"stage must be in 0 to {self.num_stages - 1}, not {stage}.")
        members = self.hparams["members"]
        phase = torch.tensor([loss_smooth, acc_smooth, noise_smooth])
        state = self._networks.state(torch.full((members, 1), stage), phase.expand(members, 1, -1))
        thetas: Tensor = self.actor(state)
        if not explore:
            return thetas[0, 0]
        theta, bound = self.exploration(thetas[max(self.exploration.episode - 1, 0) % members, 0]), self.actor.bound
        prior = torch.zeros_like(theta) if self.actor.prior is None else self.actor.prior(phase[-1])
        return theta if bound is None else theta.clamp(prior - bound, prior + bound)

    def start_episode(self) -> None:
        """Begin a new episode: the exploration draws a new offset, for the next member."""
        self.exploration.start_episode()

    # -- learning ------------------------------------------------------------------------------------------

    def full_data_update(
        self, buffer: ReplayBuffer, epochs: float | None = None, batch_size: int | None = None
    ) -> dict[str, float]:
        """FDU (Algorithm 1): for E_n epochs shuffle the whole buffer; per batch a critic and an actor step.

        The shuffles depend on the agent's seed and the number of its updates. With the transitions of N_a workers an
        update has N_a times the passes and the batch size: each transition is learned from as often, in as many steps,
        and a step's gradient is the mean of N_a workers' gradients (Equations 10 and 13).

        Args:
            buffer: the transitions; must not be empty.
            epochs: E_n; by default the agent's own times ``buffer.workers``.
            batch_size: B; by default the agent's own times ``buffer.workers``.

        Returns:
            Means over the update, of the first member: ``critic_loss``, ``actor_loss``, ``q_mean``; NaN if its
            update was undone, with a warning, as a number in it exceeded the range of float32.

        Raises:
            ValueError: the buffer is empty, or of an agent with other features or more stages.
        """
        epochs = self.hparams["epochs"] * buffer.workers if epochs is None else epochs
        batch_size = self.hparams["batch_size"] * buffer.workers if batch_size is None else batch_size
        if not epochs > 0 or batch_size < 1:
            raise ValueError(f"epochs must be above 0 and batch_size at least 1, not {epochs} and {batch_size}.")
        returns, imitation = prepared(buffer.transitions(), self.hparams), self.imitation()
        before = self.full_state()
        reseed(self._generator, self.hparams["seed"] + 2, self.updates)
        logs = [
            learn(self._networks, self._targets, self._adams, batch, imitation, self.hparams)
            for order in shuffles(len(buffer), epochs, self.hparams["members"], self._generator)
            for batch in returns.batches(order, batch_size)
        ]
        means = {name: float(torch.stack([log[name][0] for log in logs]).mean()) for name in logs[0]}
        now = {**self.state_dict(), **optimizer_state(self, self._adams)}
        good = undo_where_diverged(now, before["networks"] | before["optimizers"])
        if not (good.all() or self._has_diverged):
            self._has_diverged = True
            rank_zero_warn(
                "The strategy's networks have diverged: in an update a number exceeded the range of float32. This "
                "update was undone; later ones will be undone without a warning. Lower actor_lr and critic_lr, set "
                "theta_bound, or sum rewards up to the end of an episode (n_step=None)."
            )
        self.updates += 1
        self.learned += buffer.workers
        return means if good[0] else dict.fromkeys(means, math.nan)

    def imitation(self) -> float:
        r"""The weight of imitation in the next update; per episode it decays as the exploration does.

        .. math:: \lambda_n = \lambda \, \kappa^{n / (T_{max} - T_w)}

        kappa is noise_decay, and n counts the stages of all workers that were followed by an update.
        """
        episodes = self.learned / (self.num_stages - self.warmup_stages)
        return float(self.hparams["imitation"] * self.hparams["noise_decay"] ** episodes)

    def check_fit(self, transitions: Transitions) -> None:
        """Raise a ValueError unless transitions, at least one, are of an agent with these features and stages."""
        check_fit(transitions, self.hparams)

    # -- training by a Trainer -----------------------------------------------------------------------------

    def configure_optimizers(self) -> list[Adam]:
        """Adam for the critic and for actor and embedding; always the same two."""
        return self._adams

    def on_train_start(self) -> None:
        """Prepare the transitions of the Trainer's loader as a full data update does."""
        if self.trainer.world_size > 1 or self.trainer.precision != "32-true":
            raise MisconfigurationException(
                f"A StrategyAgent trains in one process and in float32: Trainer(devices=1, precision='32-true'), not "
                f"{self.trainer.world_size} processes and {self.trainer.precision!r}."
            )
        returns = prepared(transitions_of(self.trainer.train_dataloader), self.hparams)
        self._returns = Returns(*(column.to(self.device) for column in returns))

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """One batch of transitions for all members, for ``Trainer().fit(agent, buffer.dataloader(...))``."""
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        (rows,) = self._returns.batches(batch[-1].expand(self.hparams["members"], -1), len(batch[-1]))
        logs = learn(self._networks, self._targets, optimizers, rows, self.imitation(), self.hparams)
        self.log_dict({f"agent/{name}": value[0] for name, value in logs.items()})

    # -- state ---------------------------------------------------------------------------------------------

    def full_state(self) -> dict[str, Any]:
        """Everything that acting, exploring and learning depend on: tensors and plain Python."""
        return {
            "hparams": dict(self.hparams),
            "networks": {name: tensor.clone() for name, tensor in self.state_dict().items()},
            "optimizers": {name: tensor.clone() for name, tensor in optimizer_state(self, self._adams).items()},
            "exploration": self.exploration.state_dict(),
            "updates": self.updates,
            "learned": self.learned,
        }

    def load_full_state(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`full_state`.

        Raises:
            ValueError: it is of another agent, or a number in it is not finite.
        """
        state = upgraded(state)
        self.load_state_dict(state["networks"])
        given, own = state["optimizers"], optimizer_state(self, self._adams)
        if given and given.keys() != own.keys():
            raise ValueError("the optimizers' state is not that of this agent's parameters")
        for name, tensor in own.items():
            tensor.copy_(given[name]) if given else tensor.zero_()
        self.exploration.load_state_dict(state["exploration"])
        self.updates, self.learned = (int(state[name]) for name in ("updates", "learned"))
        if not is_finite(self.full_state()):
            raise ValueError("the strategy's state has numbers that are not finite")

    def differences(self, hparams: dict[str, Any]) -> list[str]:
        """Hyper-parameters of a state, as ``name=value``, that are not this agent's."""
        return differences(hparams, self.hparams)

    def save(self, path: str | Path, resumable: bool = True) -> None:
        """Write the strategy to a safetensors file: tensors, and the rest as JSON in its header.

        Args:
            path: where to.
            resumable: include all members and the optimizers' state, most of the file, for learning to go on exactly.
        """
        state = self.full_state()
        if not resumable:
            networks = {name: tensor[:1] for name, tensor in state["networks"].items()}
            state |= {"hparams": {**state["hparams"], "members": 1}, "networks": networks, "optimizers": {}}
        save_strategy(path, state)

    @classmethod
    def load(cls, path: str | Path) -> StrategyAgent:
        """Read a strategy that :meth:`save` wrote, of this version or an earlier one.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, foreign or incomplete.
        """
        state = load_state(path, "strategy")
        try:
            state = upgraded(state)
            agent = cls(**state["hparams"])
            agent.load_full_state(state)
        except Exception as error:  # a foreign state can fail in any way
            raise ValueError(f"{path} is not a complete strategy file: {error}") from error
        return agent
