"""The strategy: a DDPG agent that maps training phases to the parameters of a weighting function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from law_lightning import functional as LF
from law_lightning.agent.ddpg import DDPG
from law_lightning.agent.exploration import Exploration
from law_lightning.agent.hyperparameters import check_hyperparameters
from law_lightning.agent.networks import action_scale
from law_lightning.agent.replay import ReplayBuffer
from law_lightning.agent.study import Study
from law_lightning.utilities.files import is_finite, load_state, save_state
from law_lightning.utilities.randomness import OwnGenerator, derived_seed

Progress = Callable[[int, int], None]
#: What strategies were like before their files said so.
FORMER: dict[str, Any] = {
    "members": 1, "imitation": 0.0, "phase_accuracy": "training", "relative_loss": True, "feature_scale": 0.3,
    "zero_init": True, "embedding_loss": "actor",
}  # fmt: skip


class StrategyAgent(DDPG):
    """Actor, critic and stage embedding with their update (Equations 4, 5, 10 to 13).

    A search that one actor leads often stays near the first theta that did well. So there may be several members, each
    with an actor, a critic and an embedding of its own. They take turns at exploring, one an episode, and at learning,
    one a pass over all transitions. The agent itself is the first, whose networks and greedy theta are the strategy; a
    Trainer trains that one alone.

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
        epochs: E_n, passes over the whole buffer in a full data update, which the members take in turn.
        batch_size: B, transitions in a batch.
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
        members: how many take turns.
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
        others: the members after the first.

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
        epochs: int = 1,
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
        features, hidden, seed = list(features), [int(width) for width in hidden], int(seed)
        self.save_hyperparameters({
            "num_stages": int(num_stages), "features": features, "warmup_stages": int(warmup_stages),
            "embedding_dim": int(embedding_dim), "hidden": hidden,
            "theta_bound": None if theta_bound is None else float(theta_bound),
            "actor_lr": float(actor_lr), "critic_lr": float(critic_lr), "discount": float(discount),
            "target_rate": None if target_rate is None else float(target_rate),
            "standardize_rewards": bool(standardize_rewards), "epochs": int(epochs), "batch_size": int(batch_size),
            "episode_noise": float(episode_noise), "stage_noise": float(stage_noise),
            "noise_decay": float(noise_decay), "n_step": None if n_step is None else int(n_step),
            "action_penalty": float(action_penalty), "imitation": float(imitation), "members": int(members),
            "phase_accuracy": phase_accuracy, "relative_loss": bool(relative_loss),
            "feature_scale": float(feature_scale), "zero_init": bool(zero_init), "embedding_loss": embedding_loss,
            "seed": seed,
        })  # fmt: skip
        check_hyperparameters(self.hparams)
        self.num_stages = int(num_stages)
        self.features = tuple(features)
        self.warmup_stages = int(warmup_stages)
        self.theta_bound = theta_bound
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.build(len(features) + 1)
        self.exploration = Exploration(
            action_scale(len(features) + 1, float(feature_scale)), episode_noise, stage_noise, noise_decay, seed + 1
        )
        self.updates = self.learned = 0
        self._diverged = False
        self._shuffle = OwnGenerator(seed + 2)
        self.others = [
            StrategyAgent(**{**self.hparams, "members": 1, "seed": derived_seed(seed, number)})
            for number in range(1, int(members))
        ]

    # -- acting --------------------------------------------------------------------------------------------

    def act(self, stage: int, loss_smooth: float, acc_smooth: float, explore: bool = False) -> Tensor:
        """theta_T = mu(s_T) (Equation 4).

        Args:
            stage: T, from 0.
            loss_smooth: smoothed training loss, divided by log C if the agent's ``relative_loss`` says so.
            acc_smooth: smoothed accuracy of the agent's ``phase_accuracy``, in [0, 1].
            explore: add this episode's offset and fresh noise, within the bound.

        Returns:
            theta, [F + 1]: one weight per feature, then b; float32 on the CPU.

        Raises:
            ValueError: there is no such stage.
        """
        if not 0 <= stage < self.num_stages:
            raise ValueError(f"stage must be in 0 to {self.num_stages - 1}, not {stage}.")
        turn = max(self.exploration.episode - 1, 0) % (1 + len(self.others)) if explore else 0
        member = self if turn == 0 else self.others[turn - 1]
        with torch.no_grad():
            state = self._state(member.embedding, torch.tensor([stage]), torch.tensor([[loss_smooth, acc_smooth]]))
            theta: Tensor = member.actor(state)[0]
            if explore:
                theta = self.exploration(theta)
                if self.theta_bound is not None:
                    theta = theta.clamp(-self.theta_bound, self.theta_bound)
        return theta

    def start_episode(self) -> None:
        """Begin a new episode: the exploration draws a new offset, and the next member takes its turn."""
        self.exploration.start_episode()

    # -- learning ------------------------------------------------------------------------------------------

    def full_data_update(
        self,
        buffer: ReplayBuffer,
        epochs: int | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> dict[str, float]:
        """FDU (Algorithm 1): for E_n epochs shuffle the whole buffer; per batch a critic and an actor step.

        The shuffles depend on the agent's seed and on how many updates there were before, and so does whose turn it is.
        With the transitions of N_a workers an update has N_a times the passes and the batch size of one worker's: each
        transition is learned from as often, in as many steps as one worker's buffer would take.

        Args:
            buffer: the transitions; must not be empty.
            epochs: E_n; by default the agent's own times ``buffer.workers``.
            batch_size: B; by default the agent's own times ``buffer.workers``.
            progress: called with (batches done, batches in all) after every batch.

        Returns:
            Means over the update of the first whose turn it is: ``critic_loss``, ``actor_loss``, ``q_mean``. NaN where
            it was undone, with a warning, as a number in it left what float32 holds.

        Raises:
            ValueError: the buffer is empty, or of an agent with other features or more stages.
        """
        epochs = self.hparams["epochs"] * buffer.workers if epochs is None else epochs
        batch_size = self.hparams["batch_size"] * buffer.workers if batch_size is None else batch_size
        if epochs < 1 or batch_size < 1:
            raise ValueError(f"epochs and batch_size must be at least 1, not {epochs} and {batch_size}.")
        packed = self._prepare(buffer.transitions())
        done, total = count(1), epochs * -(-len(packed) // batch_size)

        def tell() -> None:
            if progress is not None:
                progress(next(done), total)

        passes, imitation = self._turns(epochs), self.imitation()
        studies = [
            Study(member, packed, batch_size, imitation, member._shuffled(self.updates), tell) for member in passes
        ]
        before = [study.numbers() for study in studies]
        buffer.take_passes(studies, list(passes.values()))
        for study, numbers in zip(studies, before, strict=True):
            if not is_finite(study.numbers()):
                study.take(numbers)
                self._warn_of_divergence()
        self.updates += 1
        self.learned += buffer.workers
        return studies[0].means()

    def _warn_of_divergence(self) -> None:
        if not self._diverged:
            self._diverged = True
            rank_zero_warn(
                "The strategy's networks have diverged: in an update a number left what float32 holds. It was undone, "
                "and so will be others like it. Lower actor_lr and critic_lr, set theta_bound, or sum rewards up to "
                "the end of an episode (n_step=None)."
            )

    def imitation(self) -> float:
        r"""The weight of imitation in the next update.

        .. math:: \lambda_n = \lambda \, \kappa^{n / (T_{max} - T_w)}

        As the exploration does, it decays by noise_decay, kappa, an episode: n counts the stages of all workers that
        were followed by an update.
        """
        episodes = self.learned / (self.num_stages - self.warmup_stages)
        return float(self.hparams["imitation"] * self.hparams["noise_decay"] ** episodes)

    def _turns(self, epochs: int) -> dict[StrategyAgent, int]:
        """How many passes each member takes in the next update, beginning with whose turn it is; at least one each."""
        members = [self, *self.others]
        first = self.updates * epochs
        return dict(Counter(members[number % len(members)] for number in range(first, first + epochs)))

    def _shuffled(self, update: int) -> torch.Generator:
        """What draws the orders of an update."""
        self._shuffle.reseed(self.hparams["seed"] + 2, update)
        return self._shuffle.generator

    # -- state ---------------------------------------------------------------------------------------------

    def full_state(self) -> dict[str, Any]:
        """Everything that acting, exploring and learning depend on: tensors and plain Python."""
        return {
            "hparams": dict(self.hparams),
            "networks": {name: tensor.clone() for name, tensor in self.state_dict().items()},
            "optimizers": self.learner().optimizer_states(),
            "exploration": self.exploration.state_dict(),
            "updates": self.updates,
            "learned": self.learned,
            "others": [other.full_state() for other in self.others],
        }

    def differences(self, hparams: dict[str, Any]) -> list[str]:
        """Hyper-parameters of a state, as ``name=value``, that are not this agent's.

        Those that a file of before lacks are as in :data:`FORMER`; its imitation may be any.
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
        self.load_state_dict(state["networks"])
        learner = self.learner()
        if state["optimizers"] is not None:
            learner.load_optimizer_states(state["optimizers"])
        self.exploration.load_state_dict(state["exploration"])
        counts = int(state["updates"]), int(state.get("learned", state["updates"]))  # files of before have one
        if not all(0 <= number < 2**63 for number in counts):
            raise ValueError("the strategy's updates must be whole numbers of at least 0")
        self.updates, self.learned = counts
        for other, own in zip(self.others, state.get("others", []), strict=True):
            other.load_full_state(own)
        if not is_finite(self.full_state()):  # what was given may hold more, of any size
            raise ValueError("the strategy's state has numbers that are not finite")

    def save(self, path: str | Path, resumable: bool = True) -> None:
        """Write the strategy to a file that loads with ``weights_only=True``.

        Args:
            path: where to.
            resumable: keep the optimizers' state and the other members, most of the file, so that learning goes on
                exactly.
        """
        state = self.full_state()
        if not resumable:
            alone = {**state["hparams"], "members": 1}
            state |= {"hparams": alone, "optimizers": None, "others": []}
        save_state(path, "strategy", state)

    @classmethod
    def load(cls, path: str | Path) -> StrategyAgent:
        """Read a strategy that :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, foreign or incomplete.
        """
        state = load_state(path, "strategy")
        if not is_finite(state):
            raise ValueError(f"{path} holds a strategy with parameters that are not finite.")
        try:
            agent = cls(**(FORMER | state["hparams"]))
            agent.load_full_state(state)
        except Exception as error:  # a state that another program made up can fail in any way
            raise ValueError(f"{path} is not a complete strategy file: {error}") from error
        return agent
