"""LAW in a single fit: stages, the duplicate-network reward and the strategy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning.agent import ReplayBuffer, StrategyAgent
from law_lightning.agent.resolve import resolve_agent
from law_lightning.agent.update import MOST_REWARD
from law_lightning.callbacks.resume import refuse_ended
from law_lightning.callbacks.reward import RewardCallback
from law_lightning.callbacks.staged import Record, phase_loss
from law_lightning.second_network.trace import ReferenceTrace
from law_lightning.stages.schedule import TrainingPhase
from law_lightning.weighting.law import LAWWeighting


class LAWCallback(RewardCallback):
    """Learning to Auto Weight on anyone's module: ``Trainer(callbacks=[LAWCallback()])``.

    In ``mode="search"`` a reference network trains beside the user's (the target) on the same batches with plain
    losses; at every stage end both are validated, the difference is the reward, and the strategy learns from all
    transitions so far (Algorithms 1 and 2). In ``mode="apply"`` a strategy found before weights the samples, without a
    reference. The network is validated at every stage end there too, for acc_smooth (Equation 5), unless the agent's
    ``phase_accuracy`` is ``"training"``, with which no validation data are needed.

    Args:
        agent: the strategy: an agent (keeps learning from fit to fit), the path of a strategy file, or the name of a
            shipped strategy. By default a new agent.
        mode: ``"search"`` or ``"apply"``.
        num_stages: T_max; by default the agent's, 20 for a new one.
        warmup_stages: the first stages, in which every sample weighs 1; by default the agent's.
        features: the sample features of a new agent; for a given agent they are checked against its own.
        keep: which network is in the user's module after a search: ``"best"``, the one that validates better, or
            ``"target"``.
        buffer: the replay buffer; by default a new one.
        explore: add exploration to theta in search mode.
        learn: update the strategy at stage ends in search mode.
        renormalize: divide a batch's weights by their mean.
        smoothing: share of the old average that stays in l_smooth and acc_smooth after a stage, in [0, 1).
        reward_growth: k of the reward's weight r_w = exp(k ce / ne) s (Equation 9).
        reward_scale: s.
        analyse_labels: record the mean weights of right and of wrong labels (see :class:`WeightingCallback`).
        trace: keeps what the reference gives, for a later fit from the same seeds. An empty one is filled; with a
            complete one, of an earlier fit, the reference is not trained again. Rewards are the same, bit for bit.

    Attributes:
        agent: the strategy.
        buffer: the transitions so far.
        theta: that of the current stage, [F + 1]; None in the warm-up.
        history: as for :class:`WeightingCallback`, and ``theta``, ``reward``, ``acc_target``, ``acc_reference``,
            ``loss_gap`` (training loss of the target less that of the reference), ``weighted_loss_gap`` (likewise,
            with the target's losses weighted: the mean of K x L), ``critic_loss``, ``actor_loss`` and ``q_mean`` (of
            the update at its end), which are None where there is none.

    Raises:
        ValueError: a bad argument, or a strategy of other stages or features than those asked for.
        FileNotFoundError: there is no such strategy.
    """

    def __init__(
        self,
        agent: StrategyAgent | str | Path | None = None,
        mode: Literal["search", "apply"] = "search",
        *,
        num_stages: int | None = None,
        warmup_stages: int | None = None,
        features: Sequence[str] | None = None,
        keep: Literal["best", "target"] = "best",
        buffer: ReplayBuffer | None = None,
        explore: bool = True,
        learn: bool = True,
        renormalize: bool = False,
        smoothing: float = 0.5,
        reward_growth: float = 3.0,
        reward_scale: float = 1.0,
        analyse_labels: bool = False,
        trace: ReferenceTrace | None = None,
    ) -> None:
        if agent is None and mode == "apply":
            raise ValueError("mode='apply' needs a strategy: an agent, the path of a strategy file, or a shipped name.")
        self.agent = resolve_agent(agent, num_stages, warmup_stages, features)
        super().__init__(
            LAWWeighting(self.agent.features, renormalize),
            mode,
            keep,
            reward_growth,
            reward_scale,
            trace,
            num_stages=self.agent.num_stages,
            warmup_stages=self.agent.warmup_stages if warmup_stages is None else warmup_stages,
            smoothing=smoothing,
            analyse_labels=analyse_labels,
        )
        self.weighting: LAWWeighting
        self.buffer = ReplayBuffer() if buffer is None else buffer
        self.explore = explore
        self.learn = learn

    @property
    def theta(self) -> Tensor | None:
        """The action of the current stage, [F + 1]; None while every sample weighs 1."""
        return self.weighting.theta

    @property
    def validates(self) -> bool:
        """Whether acc_smooth is of the validation data."""
        return bool(self.agent.hparams["phase_accuracy"] == "validation")

    # -- before training -----------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Cut the run into stages, check the validation data on one batch, and begin."""
        self.weighting.theta = None
        super().on_train_start(trainer, pl_module)

    def _start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.mode == "search":
            self.agent.start_episode()

    def start_stage(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """theta_T = mu(s_T), for the whole stage."""
        if not self.in_warmup:
            phase = self._stage_phase
            explore = self.mode == "search" and self.explore
            theta = self.agent.act(phase.stage, phase.loss_smooth, phase.acc_smooth, explore=explore)
            # Processes may have been given other agents, or round otherwise: one network needs one theta.
            self.weighting.theta = trainer.strategy.broadcast(theta)

    def measure(self, trainer: L.Trainer, module: L.LightningModule, record: Record) -> tuple[float, float]:
        """What enters l_smooth and acc_smooth, as the agent wants it (Equation 5)."""
        _, accuracy = super().measure(trainer, module, record)
        loss = phase_loss(record, self.agent.hparams["relative_loss"])
        return loss, record["acc_target"] if self.validates else accuracy

    def end_stage(self, trainer: L.Trainer, module: L.LightningModule, record: Record, phase: TrainingPhase) -> None:
        """Transition and full data update (Algorithm 2)."""
        theta = self.theta
        record["theta"] = [0.0] * (len(self.agent.features) + 1) if theta is None else theta.tolist()
        record |= dict.fromkeys(("critic_loss", "actor_loss", "q_mean"))
        if self.mode == "search" and theta is not None:
            done = record["stage"] == self.num_stages - 1
            self.buffer.add(self._stage_phase, theta, record["reward"], phase, done)
            if self.learn:
                record |= self.agent.full_data_update(self.buffer)

    def scalars(self, record: Record) -> dict[str, float]:
        """A record's numbers under their log keys, ``law/*`` and ``agent/*``; those it lacks are left out."""
        scalars = super().scalars(record)
        measured = ("reward", "acc_target", "acc_reference", "loss_gap", "weighted_loss_gap")
        scalars |= {f"law/{name}": record[name] for name in measured if name in record}
        names = [*self.agent.features, "b"]
        scalars |= {f"law/theta/{name}": value for name, value in zip(names, record["theta"], strict=True)}
        scalars |= {f"agent/{name}": record[name] for name in ("critic_loss", "actor_loss", "q_mean")}
        return {name: value for name, value in scalars.items() if value is not None}

    # -- state ---------------------------------------------------------------------------------------------

    def fit_state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors and plain Python."""
        state = super().fit_state()
        if self.trace is not None:
            return state
        return state | {
            "mode": self.mode,
            "agent": self.agent.full_state(),
            "buffer": self.buffer.state_dict(),
            "theta": None if self.theta is None else self.theta.cpu(),
        }

    def _resume(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        if self.trace is None:
            self._load_strategy(state)
        super()._resume(trainer, module, state)

    def _load_strategy(self, state: dict[str, Any]) -> None:
        if "mode" not in state:
            raise MisconfigurationException(
                "The checkpoint is a kept warm-up of a search, without its strategy: resume from one of your own fit."
            )
        if state["mode"] != self.mode:
            mode = state["mode"]
            raise MisconfigurationException(
                f"The checkpoint is of a run in mode {mode!r}; resume with LAWCallback(mode={mode!r})."
            )
        if self.mode == "search":
            refuse_ended(type(self).__name__, state)
        self._load_agent(state)

    def _load_agent(self, state: dict[str, Any]) -> None:
        if other := self.agent.differences(state["agent"]["hparams"]):
            raise MisconfigurationException(
                "The checkpoint holds a strategy with other settings than the callback's agent: resume with "
                f"StrategyAgent({', '.join(other)}) and the rest as it is."
            )
        self.agent.load_full_state(state["agent"])
        self.buffer.load_state_dict(state["buffer"])
        if len(self.buffer):
            self.agent.check_fit(self.buffer.transitions())
        theta = state["theta"]
        if theta is not None and (
            theta.dtype != torch.float32
            or theta.shape != (len(self.agent.features) + 1,)
            or not float(theta.abs().max()) <= MOST_REWARD
        ):
            raise ValueError("its theta is not that of this strategy")
        self.weighting.theta = theta

    def load_results(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        """Take over what a fit came to that has ended, the strategy too."""
        super().load_results(trainer, module, state)
        if "agent" in state:
            self._load_agent(state)
