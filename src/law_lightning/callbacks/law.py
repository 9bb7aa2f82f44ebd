"""LAW in a single fit: stages, the duplicate-network reward and the strategy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning import functional as LF
from law_lightning.agent import ReplayBuffer, StrategyAgent
from law_lightning.agent.ddpg import MOST_REWARD
from law_lightning.agent.resolve import resolve_agent
from law_lightning.callbacks.checks import refuse_averages, refuse_search
from law_lightning.callbacks.lockstep import LockstepCallback
from law_lightning.callbacks.resume import refuse_ended
from law_lightning.callbacks.staged import Record
from law_lightning.capture import LossCapture
from law_lightning.evaluation import Evaluator
from law_lightning.files import is_finite
from law_lightning.randomness import random_states
from law_lightning.reference import Reference, StepRecord
from law_lightning.stages import TrainingPhase
from law_lightning.trace import ReferenceTrace, TracedReference, fork_digest
from law_lightning.weighting.law import LAWWeighting


class LAWCallback(LockstepCallback):
    """Learning to Auto Weight on anyone's module: ``Trainer(callbacks=[LAWCallback()])``.

    In ``mode="search"`` a reference network trains beside the user's (the target) on the same batches with plain
    losses; at every stage end both are validated, the difference is the reward, and the strategy learns from all
    transitions so far (Algorithms 1 and 2). In ``mode="apply"`` a strategy found before weights the samples; there is
    no reference, and no validation data are needed.

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
            ``loss_gap`` (training loss of the target less that of the reference), ``critic_loss``, ``actor_loss`` and
            ``q_mean`` (of the update at its end), which are None where there is none.

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
        if mode not in ("search", "apply"):
            raise ValueError(f"mode must be 'search' or 'apply', not {mode!r}.")
        if keep not in ("best", "target"):
            raise ValueError(f"keep must be 'best' or 'target', not {keep!r}.")
        if not math.isfinite(reward_growth) or not reward_scale > 0:
            raise ValueError(
                f"reward_growth must be finite and reward_scale above 0, not {reward_growth}, {reward_scale}."
            )
        if not reward_growth + math.log(reward_scale) < math.log(MOST_REWARD):  # exp of the growth may overflow
            raise ValueError(
                f"exp(reward_growth) * reward_scale must be below {MOST_REWARD:g}, or the rewards are too large to be "
                f"learned from: lower reward_growth={reward_growth} or reward_scale={reward_scale}."
            )
        if trace is not None and (mode == "apply" or keep == "best"):
            raise ValueError("trace keeps a reference's course, not its network: use mode='search' and keep='target'.")
        if agent is None and mode == "apply":
            raise ValueError("mode='apply' needs a strategy: an agent, the path of a strategy file, or a shipped name.")
        self.agent = resolve_agent(agent, num_stages, warmup_stages, features)
        super().__init__(
            LAWWeighting(self.agent.features, renormalize),
            num_stages=self.agent.num_stages,
            warmup_stages=self.agent.warmup_stages if warmup_stages is None else warmup_stages,
            smoothing=smoothing,
            analyse_labels=analyse_labels,
        )
        self.weighting: LAWWeighting
        self.mode = mode
        self.keep = keep
        self.buffer = ReplayBuffer() if buffer is None else buffer
        self.explore = explore
        self.learn = learn
        self.reward_growth = reward_growth
        self.reward_scale = reward_scale
        self.trace = trace
        self._evaluator: Evaluator | None = None
        self._target_loss: Tensor | None = None
        self._last_accuracies: tuple[int, float, float] | None = None

    second_key = "reference"

    @property
    def theta(self) -> Tensor | None:
        """The action of the current stage, [F + 1]; None while every sample weighs 1."""
        return self.weighting.theta

    @property
    def reference(self) -> L.LightningModule | None:
        """The reference network; None in apply mode, and until the warm-up ends (one network trains for both)."""
        return self._released if self._second is None else self._second.module

    # -- before training -----------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot work, before anything runs."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit" or self.mode == "apply":
            return
        refuse_search(trainer, pl_module)
        if self.keep == "best":
            refuse_averages(trainer, "LAWCallback", "target")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Cut the run into stages, check the validation data on one batch, and begin."""
        self._last_accuracies = None
        self.weighting.theta = None
        if self.mode == "search":
            self._evaluator = Evaluator(trainer)
            self._evaluator([pl_module], limit=1)
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

    # -- the lockstep --------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Fork the reference when the warm-up has ended: until then one network trained for both."""
        self._target_loss = None
        if self.mode == "search" and self._second is None and not self.in_warmup:
            self._second = self._fork(trainer, pl_module, batch)
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def _fork(self, trainer: L.Trainer, module: L.LightningModule, batch: Any) -> Reference | TracedReference:
        """The reference begins: a copy of the target, or what is known of such a copy's training."""
        if self.trace is None:
            return Reference(trainer, module)
        if any(config.reduce_on_plateau for config in trainer.lr_scheduler_configs):
            raise MisconfigurationException(
                "The learning rate follows a validation metric of the target (ReduceLROnPlateau), and the reference "
                "follows the target's rate: it differs from episode to episode and cannot be kept. Search with "
                "seed_pool=0 or with another scheduler."
            )
        digest = fork_digest(trainer, module, batch, random_states())
        if self.trace.complete:
            return TracedReference(self.trace, digest)
        self.trace.begin(digest)
        return Reference(trainer, module)

    def before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what the target's step begins with (a second call in one step, as by LBFGS, changes nothing)."""
        if self._second is not None and self._record is None:
            self._record = self._second.begin_step(args, kwargs)

    def after_step(self, capture: LossCapture) -> None:
        """Note the target's unweighted loss, of the first loss where there are several."""
        if self._record is not None and self._target_loss is None and capture.samples:
            self._target_loss = capture.samples[0].mean_loss

    def follow(self, record: StepRecord, batch_idx: int) -> dict[str, Any]:
        """The reference takes the step that the target took, with plain losses."""
        assert self._second is not None
        result = self._second.step(record, batch_idx)
        if self.trace is not None and not self.trace.complete:
            self.trace.losses.append(None if result.loss is None else result.loss.detach())
        if result.loss is not None and self._target_loss is not None:
            self._statistics.add_gap((self._target_loss - result.loss).float())
        return result.output

    # -- the reward ----------------------------------------------------------------------------------------

    def _accuracies(self, module: L.LightningModule) -> tuple[float, float]:
        """Validation accuracies of target and reference; one network stands for both in the warm-up."""
        assert self._evaluator is not None
        if self._second is None:
            (accuracy,) = self._evaluator([module])
            return accuracy, accuracy
        if isinstance(self._second, TracedReference):
            (target,) = self._evaluator([module])
            return target, self._second.accuracy(self._stage)
        target, reference = self._evaluator([module, self._second.module])
        if self.trace is not None:
            self.trace.accuracies[self._stage] = reference
        return target, reference

    def end_stage(self, trainer: L.Trainer, module: L.LightningModule, record: Record, phase: TrainingPhase) -> None:
        """Reward, transition, full data update (Algorithm 2)."""
        theta = self.theta
        record["theta"] = [0.0] * (len(self.agent.features) + 1) if theta is None else theta.tolist()
        record |= dict.fromkeys(("reward", "acc_target", "acc_reference", "critic_loss", "actor_loss", "q_mean"))
        if self.mode == "search":
            assert self.schedule is not None
            target, reference = self._accuracies(module)
            self._last_accuracies = (trainer.global_step, target, reference)
            weight = LF.reward_weight(record["step"], self.schedule.total_steps, self.reward_growth, self.reward_scale)
            record |= {
                "acc_target": target,
                "acc_reference": reference,
                "reward": LF.reward(target, reference, weight),
            }
            if theta is not None:
                done = record["stage"] == self.num_stages - 1
                self.buffer.add(self._stage_phase, theta, record["reward"], phase, done)
                if self.learn and len(self.buffer):  # workers hear of each other a stage later
                    record |= self.agent.full_data_update(self.buffer)

    def scalars(self, record: Record) -> dict[str, float]:
        """A record's numbers under their log keys, ``law/*`` and ``agent/*``; those it lacks are left out."""
        scalars = super().scalars(record)
        scalars |= {f"law/{name}": record[name] for name in ("reward", "acc_target", "acc_reference", "loss_gap")}
        names = [*self.agent.features, "b"]
        scalars |= {f"law/theta/{name}": value for name, value in zip(names, record["theta"], strict=True)}
        scalars |= {f"agent/{name}": record[name] for name in ("critic_loss", "actor_loss", "q_mean")}
        return {name: value for name, value in scalars.items() if value is not None}

    # -- afterwards ----------------------------------------------------------------------------------------

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the network that validates better in the user's module (``keep="best"``)."""
        if self.mode == "search":
            self._end_search(trainer, pl_module)
        super().on_train_end(trainer, pl_module)

    def _end_search(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._second is None:
            self._second = self._fork(trainer, pl_module, None)
        if self.trace is not None:  # a training that was stopped early leaves it incomplete
            self.trace.complete = self.trace.complete or self._stage >= self.num_stages
        if isinstance(self._second, TracedReference) or self.keep == "target":
            return
        if self._last_accuracies is None or self._last_accuracies[0] != trainer.global_step:
            self._last_accuracies = (trainer.global_step, *self._accuracies(pl_module))
        _, target, reference = self._last_accuracies
        if reference > target:
            self._second.give_to(pl_module)

    def release(self) -> None:
        """Take the reference off the Trainer; a plain module remains."""
        super().release()
        self._evaluator = self._target_loss = None

    # -- state ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors and plain Python."""
        state = super().state_dict()
        if not state or self.trace is not None:  # see _resume_traced
            return state
        return state | {
            "mode": self.mode,
            "agent": self.agent.full_state(),
            "buffer": self.buffer.state_dict(),
            "theta": None if self.theta is None else self.theta.cpu(),
            self.second_key: None if self._second is None else self._second.state_dict(),
            "accuracies": None if self._last_accuracies is None else list(self._last_accuracies),
        }

    def _resume(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        if self.trace is not None:
            self._resume_traced(trainer, module, state)
            return
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
        if state["agent"]["hparams"] != dict(self.agent.hparams):
            raise MisconfigurationException(
                "The checkpoint holds a strategy with other settings than the callback's agent: resume with an agent "
                f"of the same ones, {state['agent']['hparams']}."
            )
        self._load_agent(state)
        theta, accuracies = state["theta"], state["accuracies"]
        if theta is not None and (theta.shape != (len(self.agent.features) + 1,) or not is_finite(theta)):
            raise ValueError("its theta is not that of this strategy")
        self.weighting.theta = theta
        if accuracies is not None:
            step, target, reference = accuracies
            self._last_accuracies = (int(step), float(target), float(reference))
        if state[self.second_key] is not None:
            self._second = Reference(trainer, module)
            self._second.load_state_dict(state[self.second_key])
        super()._resume(trainer, module, state)

    def _load_agent(self, state: dict[str, Any]) -> None:
        self.agent.load_full_state(state["agent"])
        self.buffer.load_state_dict(state["buffer"])
        if len(self.buffer):
            self.agent.check_fit(self.buffer.transitions())

    def load_results(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        """Take over what a fit came to that has ended, the strategy too."""
        super().load_results(trainer, module, state)
        if "agent" in state:
            self._load_agent(state)

    def _resume_traced(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        """Begin a new episode where the warm-up of another one from the same seed ended: it is the same in all."""
        assert self.schedule is not None
        ended = trainer.global_step == self.schedule.end(self.warmup_stages - 1) if self.warmup_stages else False
        if "agent" in state or state["stage"] != self.warmup_stages or not ended:
            raise MisconfigurationException(
                "A fit that keeps its reference's course (trace=...) cannot be resumed in the middle: begin it anew."
            )
        self._start(trainer, module)
        super()._resume(trainer, module, state)
        self.start_stage(trainer, module)
