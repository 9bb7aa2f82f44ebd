"""The strategy: a DDPG agent that maps training phases to the parameters of a weighting function."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.data import DataLoader, TensorDataset

from law_lightning import functional as LF
from law_lightning.agent.exploration import Exploration
from law_lightning.agent.former import FORMER, of_today
from law_lightning.agent.hyperparameters import check_hyperparameters, plain
from law_lightning.agent.networks import Actor, Critic, StageEmbedding, action_scale
from law_lightning.agent.replay import ReplayBuffer, Returns, Transitions
from law_lightning.agent.update import Networks, actor_loss, critic_loss, prepared, td_target
from law_lightning.utilities.files import is_finite, load_state, save_tensors
from law_lightning.utilities.randomness import OwnGenerator


class StrategyAgent(L.LightningModule):
    """Actor, critic and stage embedding with their update (Equations 4, 5, 10 to 13).

    A search that one actor leads often stays near the first theta that did well. So there may be several members, each
    with an actor, a critic and an embedding of its own, side by side in the first dimension of every parameter. All
    learn in every update, and they take turns at exploring, one an episode. The first member's greedy theta is the
    strategy.

    The agent lives on the CPU and draws from a generator of its own: building, exploring and updating leave the
    global random state untouched.

    Args:
        num_stages: T_max.
        warmup_stages: the first stages, in which every sample weighs 1 and nothing is learned.
        features: the sample features that theta weighs, a subset of :data:`law_lightning.functional.FEATURES`.
        embedding_dim: d of the stage embedding e_T.
        hidden: widths of the hidden layers of actor and critic.
        theta_bound: theta lies in (-theta_bound, theta_bound); None leaves it free.
        actor_lr: Adam's learning rate for the actor and the stage embedding.
        critic_lr: Adam's learning rate for the critic.
        discount: gamma.
        target_rate: share by which target networks follow after each batch; None does without target networks, which
            whole-episode returns have no need of.
        standardize_rewards: divide rewards by their deviation over the buffer before they are learned from.
        epochs: E_n, passes over the whole buffer in a full data update, of all members together: each of M learns from
            E_n / M of them, the last of which may be a part, drawn at random.
        batch_size: B, transitions in a batch of each member.
        episode_noise: deviation of the exploration's offset of b, drawn once an episode; less for the others.
        stage_noise: deviation of the exploration's noise on b, drawn at every stage; likewise.
        noise_decay: factor on both after an episode.
        n_step: rewards that a transition sums up before the critic takes over (Equation 12 has 1); None sums up to the
            end of the episode.
        action_penalty: weight of the mean square of the actor's output before the bound, which keeps it from
            saturating there.
        imitation: weight, at first, of the pull towards thetas that paid more than the critic expects of the strategy's
            own (:func:`law_lightning.functional.imitation_loss`, distances in units of the exploration's spread).
            Early on the critic knows little, and what paid shows the way; the weight decays as the exploration does.
        members: M.
        phase_accuracy: whose accuracy acc_smooth is, ``"validation"`` (Equation 5) or ``"training"``. Applying a
            strategy needs validation data with the first alone.
        relative_loss: measure l_smooth in units of log C, the loss of a uniform guess over C classes.
        feature_scale: how far theta's weights of features move where b moves by 1, both of the actor and in exploring
            (:func:`law_lightning.agent.networks.action_scale`).
        zero_init: the actor's last layer starts at zero, so that a new strategy weighs every sample 1.
        embedding_loss: what the stage embedding learns from: ``"actor"``, its loss alone, or ``"both"``, the critic's
            too.
        seed: of initialisation, exploration and shuffling.

    Attributes:
        updates: full data updates made so far.
        learned: stages, of all workers, that were followed by an update.

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
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # one critic step and one actor step a batch
        self.save_hyperparameters()
        self.save_hyperparameters(plain(self.hparams))
        check_hyperparameters(self.hparams)
        own = self.hparams
        self.num_stages: int = own["num_stages"]
        self.features = tuple(own["features"])
        self.warmup_stages: int = own["warmup_stages"]
        self.theta_bound: float | None = own["theta_bound"]
        scale = action_scale(len(features) + 1, own["feature_scale"])
        sizes = own["members"], own["embedding_dim"] + 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(own["seed"])
            self.embedding = StageEmbedding(own["members"], own["num_stages"], own["embedding_dim"])
            self.actor = Actor(*sizes, scale, own["hidden"], own["theta_bound"], own["zero_init"])
            self.critic = Critic(*sizes, len(scale), own["hidden"])
        if own["target_rate"] is not None:
            self.target_embedding = copy.deepcopy(self.embedding).requires_grad_(False)
            self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
            self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self._adams = [
            _adam(self.critic.parameters(), own["critic_lr"]),
            _adam([*self.actor.parameters(), *self.embedding.parameters()], own["actor_lr"]),
        ]
        self.exploration = Exploration(
            scale, own["episode_noise"], own["stage_noise"], own["noise_decay"], own["seed"] + 1
        )
        self.updates = self.learned = 0
        self._diverged = False
        self._shuffle = OwnGenerator(own["seed"] + 2)
        self._returns: Returns | None = None  # what a Trainer's loader gives the rows of

    def __getstate__(self) -> bytes:  # type: ignore[override]
        # As one: torch sends each tensor to another process as a file that stays open, of memory that both share.
        return pickle.dumps(super().__getstate__())

    def __setstate__(self, state: bytes) -> None:
        super().__setstate__(pickle.loads(state))  # type: ignore[no-untyped-call]

    # -- acting --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, stage: int, loss_smooth: float, acc_smooth: float, explore: bool = False) -> Tensor:
        """theta_T = mu(s_T) (Equation 4).

        Args:
            stage: T, from 0.
            loss_smooth: smoothed training loss, divided by log C if the agent's ``relative_loss`` says so.
            acc_smooth: smoothed accuracy of the agent's ``phase_accuracy``, in [0, 1].
            explore: take the member whose turn it is, and add this episode's offset and fresh noise, within the bound.

        Returns:
            theta, [F + 1]: one weight per feature, then b; float32 on the CPU.

        Raises:
            ValueError: there is no such stage.
        """
        if not 0 <= stage < self.num_stages:
            raise ValueError(f"stage must be in 0 to {self.num_stages - 1}, not {stage}.")
        members = self.hparams["members"]
        phase = torch.tensor([loss_smooth, acc_smooth]).expand(members, 1, 2)
        thetas: Tensor = self.actor(self._networks().state(torch.tensor([[stage]]), phase))
        if not explore:
            return thetas[0, 0]
        theta = self.exploration(thetas[max(self.exploration.episode - 1, 0) % members, 0])
        return theta if self.theta_bound is None else theta.clamp(-self.theta_bound, self.theta_bound)

    def start_episode(self) -> None:
        """Begin a new episode: the exploration draws a new offset, and the next member takes its turn."""
        self.exploration.start_episode()

    # -- learning ------------------------------------------------------------------------------------------

    def full_data_update(
        self, buffer: ReplayBuffer, epochs: float | None = None, batch_size: int | None = None
    ) -> dict[str, float]:
        """FDU (Algorithm 1): for E_n epochs shuffle the whole buffer; per batch a critic and an actor step.

        The shuffles depend on the agent's seed and on how many updates there were before. With the transitions of N_a
        workers an update has N_a times the passes and the batch size of one worker's: each transition is learned from
        as often, in as many steps as one worker's buffer would take, and a step's gradient is the mean of N_a workers'
        gradients (Equations 10 and 13).

        Args:
            buffer: the transitions; must not be empty.
            epochs: E_n; by default the agent's own times ``buffer.workers``.
            batch_size: B; by default the agent's own times ``buffer.workers``.

        Returns:
            Means over the update, of the first member: ``critic_loss``, ``actor_loss``, ``q_mean``. NaN where its
            update was undone, with a warning, as a number in it left what float32 holds.

        Raises:
            ValueError: the buffer is empty, or of an agent with other features or more stages.
        """
        epochs = self.hparams["epochs"] * buffer.workers if epochs is None else epochs
        batch_size = self.hparams["batch_size"] * buffer.workers if batch_size is None else batch_size
        if not epochs > 0 or batch_size < 1:
            raise ValueError(f"epochs must be above 0 and batch_size at least 1, not {epochs} and {batch_size}.")
        transitions = buffer.transitions()
        self.check_fit(transitions)
        returns, imitation = prepared(transitions, self.hparams), self.imitation()
        before = [tensor.clone() for tensor in self._learned()]
        logs = [
            self._step(returns.rows(rows), imitation, self._adams)
            for order in self._orders(len(buffer), epochs)
            for rows in order.split(batch_size, dim=1)
        ]
        self._undo_where_diverged(before)
        self.updates += 1
        self.learned += buffer.workers
        return {name: float(torch.stack([log[name][0] for log in logs]).mean()) for name in logs[0]}

    def _orders(self, count: int, epochs: float) -> Iterator[Tensor]:
        """For each pass the rows that every member learns from, in a random order of its own, [M, n] with n <= N."""
        members = self.hparams["members"]
        self._shuffle.reseed(self.hparams["seed"] + 2, self.updates)
        left = math.ceil(epochs * count / members)
        while left > 0:
            order = [torch.randperm(count, generator=self._shuffle.generator)[:left] for _ in range(members)]
            yield torch.stack(order)
            left -= count

    @torch.enable_grad()
    def _step(
        self, batch: Returns, imitation: float, optimizers: Sequence[Adam | LightningOptimizer]
    ) -> dict[str, Tensor]:
        """One critic step (Equations 10 to 12) and one actor step (Equation 13 and what is added to it).

        Args:
            batch: N transitions for each member, [M, N, ...].
            imitation: weight of the imitation in the actor's loss.
            optimizers: of the critic, and of actor and embedding.

        Returns:
            The critic's loss, the actor's loss and the mean Q, [M] each.
        """
        networks, slow = self._networks(), self._target_networks()
        of_critic, of_actor = (optimizer.param_groups[0]["params"] for optimizer in optimizers)
        for optimizer in optimizers:
            optimizer.zero_grad()

        target = td_target(networks if slow is None else slow, batch)
        loss, q_mean = critic_loss(networks, batch, target)
        both = self.hparams["embedding_loss"] == "both"
        loss.sum().backward(inputs=[*of_critic, *(self.embedding.parameters() if both else ())])
        optimizers[0].step()

        ascent = actor_loss(networks, batch, target, imitation, self.hparams["action_penalty"])
        ascent.sum().backward(inputs=of_actor)
        optimizers[1].step()

        if slow is not None:
            with torch.no_grad():
                for module, target_module in zip(networks, slow, strict=True):
                    for fast, lagging in zip(module.parameters(), target_module.parameters(), strict=True):
                        lagging.lerp_(fast, self.hparams["target_rate"])
        return {"critic_loss": loss.detach(), "actor_loss": ascent.detach(), "q_mean": q_mean}

    def _networks(self) -> Networks:
        return Networks(self.embedding, self.actor, self.critic)

    def _target_networks(self) -> Networks | None:
        if self.hparams["target_rate"] is None:
            return None
        return Networks(self.target_embedding, self.target_actor, self.target_critic)

    def imitation(self) -> float:
        r"""The weight of imitation in the next update.

        .. math:: \lambda_n = \lambda \, \kappa^{n / (T_{max} - T_w)}

        As the exploration does, it decays by noise_decay, kappa, an episode: n counts the stages of all workers that
        were followed by an update.
        """
        episodes = self.learned / (self.num_stages - self.warmup_stages)
        return float(self.hparams["imitation"] * self.hparams["noise_decay"] ** episodes)

    def _learned(self) -> list[Tensor]:
        """All that an update changes: of every member, [M, ...], and the optimizers' numbers of steps."""
        return [*(parameter.detach() for parameter in self.parameters()), *self._optimizer_state().values()]

    @torch.no_grad()
    def _undo_where_diverged(self, before: list[Tensor]) -> None:
        """Take back the update of members that it left with a number that is not finite."""
        now = self._learned()
        largest = [torch.linalg.vector_norm(tensor.flatten(1), math.inf, dim=1) for tensor in now if tensor.ndim]
        good = torch.stack(largest).isfinite().all(dim=0)
        if good.all():
            return
        for tensor, old in zip(now, before, strict=True):
            if tensor.ndim:
                tensor[~good] = old[~good]
            elif not good.any():  # the number of steps is all members'
                tensor.copy_(old)
        if not self._diverged:
            self._diverged = True
            rank_zero_warn(
                "The strategy's networks have diverged: in an update a number left what float32 holds. It was undone, "
                "and so will be others like it. Lower actor_lr and critic_lr, set theta_bound, or sum rewards up to "
                "the end of an episode (n_step=None)."
            )

    def check_fit(self, transitions: Transitions) -> None:
        """Raise a ValueError unless transitions, at least one, are of an agent with these features and stages."""
        width = transitions.theta.shape[1]
        stages = int(max(transitions.stage.max(), transitions.next_stage.max())) + 1
        if width != len(self.features) + 1 or stages > self.num_stages:
            raise ValueError(
                f"The replay buffer is of another agent: its theta has {width} entries and its stages go up to "
                f"{stages - 1}; this agent's have {len(self.features) + 1} and {self.num_stages - 1}."
            )

    # -- the Trainer's way ---------------------------------------------------------------------------------

    def configure_optimizers(self) -> list[Adam]:
        """Adam for the critic and for actor and embedding; the same two for as long as the agent lives."""
        return self._adams

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """One batch of transitions for all members, for ``Trainer().fit(agent, buffer.dataloader(...))``."""
        assert self._returns is not None
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        rows = batch[-1].expand(self.hparams["members"], -1)
        logs = self._step(self._returns.rows(rows), self.imitation(), optimizers)
        self.log_dict({f"agent/{name}": value[0] for name, value in logs.items()})

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
        transitions = Transitions(*data.tensors[:-1])
        self.check_fit(transitions)
        self._returns = Returns(*(column.to(self.device) for column in prepared(transitions, self.hparams)))

    def on_train_end(self) -> None:
        """Let go of the prepared transitions."""
        self._returns = None

    # -- state ---------------------------------------------------------------------------------------------

    def _optimizer_state(self) -> dict[str, Tensor]:
        """What the optimizers remember, by parameter: two moments [M, ...] and the number of steps."""
        return {
            f"{name}.{key}": tensor
            for name, parameter in self.named_parameters()
            for optimizer in self._adams
            for key, tensor in optimizer.state.get(parameter, {}).items()
        }

    def full_state(self) -> dict[str, Any]:
        """Everything that acting, exploring and learning depend on: tensors and plain Python."""
        return {
            "hparams": dict(self.hparams),
            "networks": {name: tensor.clone() for name, tensor in self.state_dict().items()},
            "optimizers": {name: tensor.clone() for name, tensor in self._optimizer_state().items()},
            "exploration": self.exploration.state_dict(),
            "updates": self.updates,
            "learned": self.learned,
        }

    def differences(self, hparams: dict[str, Any]) -> list[str]:
        """Hyper-parameters of a state, as ``name=value``, that are not this agent's.

        Those that a file of before lacks are as in :data:`law_lightning.agent.former.FORMER`; its imitation may be any.
        """
        own = dict(self.hparams)
        given = FORMER | {"imitation": own["imitation"]} | hparams
        names = [*given, *(name for name in own if name not in given)]
        missing = object()
        return [
            f"{name}={given[name]!r}" if name in given else f"without {name}"
            for name in names
            if given.get(name, missing) != own.get(name, missing)
        ]

    def load_full_state(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`full_state` was taken.

        Raises:
            ValueError: it is of another agent, or a number in it is not finite.
        """
        state = of_today(state)
        self.load_state_dict(state["networks"])
        given, own = state["optimizers"], self._optimizer_state()
        if given and {name: tensor.shape for name, tensor in given.items()} != {n: t.shape for n, t in own.items()}:
            raise ValueError("the optimizers' state is not that of this agent's parameters")
        for name, tensor in own.items():
            tensor.copy_(given[name]) if given else tensor.zero_()
        self.exploration.load_state_dict(state["exploration"])
        counts = int(state["updates"]), int(state["learned"])
        if not all(0 <= number < 2**63 for number in counts):
            raise ValueError("the strategy's updates must be whole numbers of at least 0")
        self.updates, self.learned = counts
        if not is_finite(self.full_state()):
            raise ValueError("the strategy's state has numbers that are not finite")

    def save(self, path: str | Path, resumable: bool = True) -> None:
        """Write the strategy to a safetensors file: tensors, and the rest as JSON in its header.

        Args:
            path: where to.
            resumable: keep the optimizers' state and the other members, most of the file, so that learning goes on
                exactly.
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
        if not is_finite(state):
            raise ValueError(f"{path} holds a strategy with parameters that are not finite.")
        try:
            state = of_today(state)
            agent = cls(**state["hparams"])
            agent.load_full_state(state)
        except Exception as error:  # a state that another program made up can fail in any way
            raise ValueError(f"{path} is not a complete strategy file: {error}") from error
        return agent


def save_strategy(path: str | Path, state: dict[str, Any]) -> None:
    """Write a strategy's full state, of this version or an earlier one, to a file that :class:`StrategyAgent` loads."""
    save_tensors(path, "strategy", of_today(state))


def _adam(parameters: Iterable[nn.Parameter], rate: float) -> Adam:
    """A fused Adam that remembers zeros before its first step, so that its state always has the same tensors."""
    optimizer = Adam(parameters, lr=rate, fused=True)
    for parameter in optimizer.param_groups[0]["params"]:
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.zeros(())} | moments
    return optimizer
