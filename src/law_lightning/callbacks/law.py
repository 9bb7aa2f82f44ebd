"""LAW in a single fit: stages, the duplicate-network reward and the strategy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from law_lightning import functional as LF
from law_lightning.agent import ReplayBuffer, StrategyAgent
from law_lightning.agent.resolve import resolve_agent
from law_lightning.agent.update import MAX_REWARD
from law_lightning.callbacks.checks import refuse_averages, refuse_search, refuse_validation, warn_of_one_sided
from law_lightning.callbacks.general import GeneralRule
from law_lightning.callbacks.weighting import WeightingCallback
from law_lightning.capture.part import Part
from law_lightning.second_network.evaluation import NO_PHASE, NO_REWARD, Evaluator, validation_loaders
from law_lightning.second_network.reference import Reference
from law_lightning.stages.clock import Record, phase_loss
from law_lightning.stages.schedule import TrainingPhase
from law_lightning.stages.statistics import StageStatistics
from law_lightning.weighting.law import LAWWeighting


class LAWCallback(WeightingCallback):
    """Learning to Auto Weight on any LightningModule: ``Trainer(callbacks=[LAWCallback()])``.

    In ``mode="search"`` a reference network trains beside the user's (the target) on the same batches with plain
    losses; at every stage end both are validated, the difference is the reward, and the strategy learns from all
    transitions so far (Algorithms 1 and 2). In ``mode="apply"`` a strategy found before weights the samples, without a
    reference. The network is validated at every stage end there too, for acc_smooth (Equation 5), unless the agent's
    ``phase_accuracy`` is ``"training"``, with which no validation data are needed.

    Args:
        agent: the strategy: an agent (keeps learning from fit to fit), the path of a strategy file, or the name of a
            shipped strategy. By default ``general``, a rule that needs no search
            (:func:`law_lightning.functional.general_theta`); with ``features`` a new agent that weighs those.
        mode: ``"search"`` or ``"apply"``.
        num_stages: T_max; by default the agent's, 20 for a new one.
        warmup_stages: the first stages, in which every sample weighs 1; by default the agent's.
        features: the sample features of a new agent; for a given agent they are checked against its own.
        keep: which network is in the user's module after a search: ``"best"``, the one that validates better, or
            ``"target"``.
        buffer: the replay buffer; by default a new one.
        explore: add exploration to theta in search mode; by default with all strategies but ``general``.
        learn: update the strategy at stage ends in search mode; by default where it explores.
        recover: at the end of a stage in which the target validated worse than the reference beyond chance, let it go
            on from the reference's parameters and optimizer state, and halve theta from then on; by default with
            ``general`` in search mode.
        renormalize: divide a batch's weights by their mean, also where the strategy does not.
        smoothing: see :class:`WeightingCallback`.
        reward_growth: k of the reward's weight r_w = exp(k ce / ne) s (Equation 9).
        reward_scale: s.
        analyse_labels: record the mean weights of right and of wrong labels (see :class:`WeightingCallback`).
        reference_record: the reference's validation accuracy by stage, from an earlier fit with the same seeds. With
            all stages after the warm-up in it, no reference is trained and rewards are the same, bit for bit
            (``loss_gap`` is then None); otherwise this fit fills it in. Needs ``keep="target"`` and no ``recover``.
        total_steps: optimizer steps to cut into stages, for a training whose end is open (see
            :class:`WeightingCallback`). By default those of the whole training; of the rule, with an EarlyStopping, at
            most six times its patience.

    Attributes:
        agent: the strategy.
        buffer: the transitions so far.
        kept: which network is in the user's module after a search, ``"target"`` or ``"reference"``; None before.
        accuracies: the validation accuracies of ``"target"`` and ``"reference"``, in [0, 1], by which it was chosen.
        theta: that of the current stage, [F + 1]; None in the warm-up.
        history: as for :class:`WeightingCallback`, and ``theta``, ``reward``, ``acc_target``, ``acc_reference``,
            ``loss_gap`` (training loss of the target minus that of the reference), ``weighted_loss_gap`` (likewise,
            with the target's losses weighted: the mean of K x L), ``critic_loss``, ``actor_loss`` and ``q_mean`` (of
            the update at its end), which are None where there is none. With ``init="general"`` also
            ``confident_error`` (of the validation predictions, or of the training's if that is larger), ``recovered``
            (0 or 1), ``count_per_class`` and ``margin_per_class``.

    Raises:
        ValueError: an argument is out of its range, or the strategy has other stages or features than those asked for.
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
        explore: bool | None = None,
        learn: bool | None = None,
        recover: bool | None = None,
        renormalize: bool = False,
        smoothing: float = 0.5,
        reward_growth: float = 3.0,
        reward_scale: float = 1.0,
        analyse_labels: bool = False,
        reference_record: dict[int, float] | None = None,
        total_steps: int | None = None,
    ) -> None:
        if mode not in ("search", "apply"):
            raise ValueError(f"mode must be 'search' or 'apply', not {mode!r}.")
        if mode == "apply" and agent is None and features is not None:
            raise ValueError(
                "mode='apply' needs a strategy that was found before: give agent=PATH, an agent, or leave features out "
                "for the rule 'general'. features alone names a new strategy, which learns in mode='search'."
            )
        if keep not in ("best", "target"):
            raise ValueError(f"keep must be 'best' or 'target', not {keep!r}.")
        if reference_record is not None and (mode == "apply" or keep == "best" or recover):
            raise ValueError(
                "reference_record holds a reference's accuracies, not its network: use mode='search', keep='target' "
                "and no recover."
            )
        _check_reward(reward_growth, reward_scale)
        self.agent = resolve_agent(agent, num_stages, warmup_stages, features)
        super().__init__(
            LAWWeighting(self.agent.features, renormalize or self.agent.hparams["renormalize"]),
            num_stages=self.agent.num_stages,
            warmup_stages=self.agent.warmup_stages if warmup_stages is None else warmup_stages,
            smoothing=smoothing,
            analyse_labels=analyse_labels,
            total_steps=total_steps,
        )
        self.weighting: LAWWeighting
        self.mode = mode
        self.keep = keep
        self.buffer = ReplayBuffer() if buffer is None else buffer
        self._is_rule = agent == "general" or (agent is None and features is None)
        if self._is_rule:
            # In plain training the best epoch comes early where labels are wrong, and a fit that then stops within the
            # warm-up gains nothing (docs/general.md). Strategies that were searched keep the stages of their search.
            self.patience_factor = 6
        self.explore = not self._is_rule if explore is None else explore
        self.learn = self.explore if learn is None else learn
        self.recover = mode == "search" and (self._is_rule and reference_record is None if recover is None else recover)
        self.reward_growth = reward_growth
        self.reward_scale = reward_scale
        self.reference_record = reference_record
        self.kept: Literal["target", "reference"] | None = None
        self.statistics = StageStatistics(margins=self.agent.hparams["init"] is not None)
        self._reference = Reference(self.statistics)
        self._rule: GeneralRule | None = None
        if self.agent.hparams["init"] is not None:
            self._rule = GeneralRule(self.weighting, self._reference if self.recover else None)
        self._reference_is_known = False
        self._evaluator: Evaluator | None = None
        self._accuracies: tuple[int, float, float] | None = None  # step, target's, reference's: last measured

    @property
    def theta(self) -> Tensor | None:
        """The action of the current stage, [F + 1]; None while every sample weighs 1."""
        return self.weighting.theta

    @property
    def accuracies(self) -> dict[str, float] | None:
        """Validation accuracy of target and reference, as last measured: by them ``kept`` is chosen; None before."""
        if self._accuracies is None:
            return None
        _, target, reference = self._accuracies
        return {"target": target, "reference": reference}

    @property
    def reference(self) -> L.LightningModule | None:
        """The reference network; None in apply mode, and before the warm-up ends (one network is both)."""
        return self._reference.module

    @property
    def validates(self) -> bool:
        """Whether theta follows the validation data."""
        return self.agent.hparams["phase_accuracy"] == "validation" or self._rule is not None

    @property
    def parts(self) -> dict[str, Part]:
        """The reference takes its step after the target's."""
        return {"reference": self._reference, **({} if self._rule is None else {"rule": self._rule})}

    # -- before training -------------------------------------------------------------------------------------------

    def check(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Raise an error where a reference or a validation is impossible."""
        if self.mode == "search":
            refuse_search(trainer, module)
            if self.keep == "best":
                refuse_averages(trainer, type(self).__name__, "target")
            warn_of_one_sided(trainer, self, "target")
        elif self.validates:
            refuse_validation(trainer)
            if self._is_rule:
                rank_zero_warn(
                    "With mode='apply' the rule general trains no reference, so it cannot detect where its weights "
                    "harm: on clean labels that the network is far from fitting they cost up to 12 points "
                    "(docs/general.md). LAWCallback() trains a reference (law-train: reference=true), and goes on from "
                    "it where it is better."
                )

    def prepare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Try a copy, and check the validation data on one batch."""
        self.weighting.theta = self._accuracies = self.kept = None
        record, weighted = self.reference_record, range(self.warmup_stages, self.num_stages)
        self._reference_is_known = record is not None and record.keys() >= set(weighted)
        if record is not None and not self._reference_is_known:
            record.clear()  # its fit stopped early
        if self.reference_record is not None and any(each.reduce_on_plateau for each in trainer.lr_scheduler_configs):
            raise MisconfigurationException(
                "The learning rate follows a validation metric of the target (ReduceLROnPlateau), and the reference "
                "follows the target's rate: it differs from episode to episode and cannot be recorded. Search with "
                "seed_pool=0 or with another scheduler."
            )
        if self.mode == "search" and self.clock.in_warmup and not self._reference_is_known:
            self._reference.copied({})  # a module that has no copy is refused now, not when the warm-up ends
        self._evaluator = None
        if self.mode == "search" or (self.validates and validation_loaders(trainer)):
            self._evaluator = Evaluator(trainer, NO_REWARD if self.mode == "search" else NO_PHASE)
            self._evaluator([module], limit=1)
        elif self.validates:
            rank_zero_warn(
                "There is no validation data, whose accuracy this strategy follows: it takes the training accuracy "
                "in its place, which it was not made for, and the rule general measures label noise on the training "
                "batches alone. Give the Trainer val_dataloaders; their labels may be noisy."
            )

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """An episode begins."""
        if self.mode == "search":
            self.agent.start_episode()

    # -- the stages ------------------------------------------------------------------------------------------------

    def start_stage(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """theta_T = mu(s_T), for the whole stage (Equation 4)."""
        if not self.clock.in_warmup:
            phase = self.clock.phase
            explore = self.mode == "search" and self.explore
            theta = self.agent.act(phase.stage, phase.loss_smooth, phase.acc_smooth, explore, phase.noise_smooth)
            # Processes may have other agents, or round differently, but one network needs one theta.
            strength = 1.0 if self._rule is None else self._rule.strength
            self.weighting.theta = trainer.strategy.broadcast(strength * theta)

    def before_batch(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Fork the reference when the warm-up has ended: until then one network is both."""
        if self.mode == "search" and not (self._reference.active or self.clock.in_warmup or self._reference_is_known):
            self._reference.fork()

    def measure(self, trainer: L.Trainer, module: L.LightningModule, record: Record) -> tuple[float, float, float]:
        """Validate once, for the reward and the phase; what enters l_smooth and acc_smooth (Equation 5)."""
        record |= dict.fromkeys(("reward", "acc_target", "acc_reference", "weighted_loss_gap"))
        if record["loss_gap"] is not None:
            record["weighted_loss_gap"] = record["loss_gap"] + record["weighted_loss"] - record["loss"]
        if self.mode == "search":
            target, reference = self._validate(module)
            self._accuracies = (trainer.global_step, target, reference)
            weight = LF.reward_weight(record["step"], self.clock.total_steps, self.reward_growth, self.reward_scale)
            reward = LF.reward(target, reference, weight)
            record |= {"acc_target": target, "acc_reference": reference, "reward": reward}
        elif self._evaluator is not None:
            (record["acc_target"],) = self._evaluator([module])
        loss = phase_loss(record, self.agent.hparams["relative_loss"])
        of_validation = self.agent.hparams["phase_accuracy"] == "validation" and self._evaluator is not None
        accuracy = record["acc_target" if of_validation else "accuracy"]
        return loss, accuracy, 0.0 if self._rule is None else self._rule.measure(self._evaluator, record)

    def _validate(self, module: L.LightningModule) -> tuple[float, float]:
        """Validation accuracies of target and reference; one network stands for both in the warm-up."""
        assert self._evaluator is not None
        if self._reference.module is not None:
            target, reference = self._evaluator([module, self._reference.module])
            if self.reference_record is not None:
                self.reference_record[self.clock.stage] = reference
            return target, reference
        (accuracy,) = self._evaluator([module])
        if self.reference_record is None or self.clock.in_warmup:
            return accuracy, accuracy
        return accuracy, self.reference_record[self.clock.stage]

    def end_stage(self, trainer: L.Trainer, module: L.LightningModule, record: Record, phase: TrainingPhase) -> None:
        """Transition and full data update (Algorithms 1 and 2)."""
        theta = self.theta
        if self._rule is not None:
            self._rule.end_stage(self.history, record)
        record["theta"] = [0.0] * (len(self.agent.features) + 1) if theta is None else theta.tolist()
        record |= dict.fromkeys(("critic_loss", "actor_loss", "q_mean"))
        if self.mode == "search" and theta is not None:
            done = record["stage"] == self.num_stages - 1
            self.buffer.add(self.clock.phase, theta, record["reward"], phase, done)
            if self.learn:
                record |= self.agent.full_data_update(self.buffer)

    def finish(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Leave the network that validates better in the user's module (``keep="best"``)."""
        if self.mode == "apply":
            return
        self.kept = "target"
        if self._reference_is_known:
            return
        if not self._reference.active:  # the fit ended in the warm-up
            self._reference.fork()
        if self.keep == "best":
            if self._accuracies is None or self._accuracies[0] != trainer.global_step:
                self._evaluator = self._evaluator or Evaluator(trainer, NO_REWARD)  # a fit without a step has none
                self._accuracies = (trainer.global_step, *self._validate(module))
            if self._accuracies[2] > self._accuracies[1]:
                self._reference.give_to(module)
                self.kept = "reference"
        if self._accuracies is None or self._accuracies[0] != trainer.global_step or self.clock.in_warmup:
            return  # in the warm-up one network is both
        _, target, reference = self._accuracies
        rank_zero_info(
            f"LAW keeps the {self.kept}: validation accuracy {target:.1%} with weights (the target), "
            f"{reference:.1%} without (the reference)."
        )

    def scalars(self, record: Record) -> dict[str, float]:
        """A record's numbers under their log keys, ``law/*`` and ``agent/*``; those it lacks are left out."""
        scalars = super().scalars(record)
        measured = ("reward", "acc_target", "acc_reference", "loss_gap", "weighted_loss_gap", "confident_error")
        scalars |= {f"law/{name}": record[name] for name in measured if name in record}
        names = [*self.agent.features, "b"]
        scalars |= {f"law/theta/{name}": value for name, value in zip(names, record["theta"], strict=True)}
        scalars |= {f"agent/{name}": record[name] for name in ("critic_loss", "actor_loss", "q_mean")}
        return {name: value for name, value in scalars.items() if value is not None}

    # -- state -----------------------------------------------------------------------------------------------------

    def extra_state(self) -> dict[str, Any]:
        """The strategy with what it has learned from, theta and the last accuracies."""
        return {
            "mode": self.mode,
            "recorded": self.reference_record is not None,
            "agent": self.agent.full_state(),
            "buffer": self.buffer.state_dict(),
            "theta": None if self.theta is None else self.theta.cpu(),
            "accuracies": None if self._accuracies is None else list(self._accuracies),
        }

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`extra_state`.

        Raises:
            MisconfigurationException: the run had another mode, or a strategy of other settings.
            ValueError: the state is invalid.
        """
        if state.get("recorded") or self.reference_record is not None:
            raise MisconfigurationException("A fit with a reference_record cannot be resumed: start it over.")
        if (mode := state["mode"]) != self.mode:
            raise MisconfigurationException(
                f"The checkpoint belongs to a run in mode {mode!r}; resume with LAWCallback(mode={mode!r})."
            )
        if other := self.agent.differences(state["agent"]["hparams"]):
            raise MisconfigurationException(
                "The checkpoint holds a strategy with other settings than the callback's agent: resume with "
                f"StrategyAgent({', '.join(other)}) and the rest as it is."
            )
        buffer = ReplayBuffer()  # first another one: a damaged state must not replace what the callback has
        buffer.load_state_dict(state["buffer"])
        if len(buffer):
            self.agent.check_fit(buffer.transitions())
        theta, shape = state["theta"], (len(self.agent.features) + 1,)
        if theta is not None and not (
            theta.dtype == torch.float32 and theta.shape == shape and float(theta.abs().max()) <= MAX_REWARD
        ):
            raise ValueError("its theta does not belong to this strategy")
        self.agent.load_full_state(state["agent"])
        self.buffer.load_state_dict(state["buffer"])
        self.weighting.theta = theta
        if state["accuracies"] is not None:
            step, target, reference = state["accuracies"]
            self._accuracies = (int(step), float(target), float(reference))


def _check_reward(growth: float, scale: float) -> None:
    if not math.isfinite(growth) or not scale > 0:
        raise ValueError(f"reward_growth must be finite and reward_scale above 0, not {growth}, {scale}.")
    if not growth + math.log(scale) < math.log(MAX_REWARD):  # exp of the growth may overflow
        raise ValueError(
            f"exp(reward_growth) * reward_scale must be below {MAX_REWARD:g}, or the rewards are too large to be "
            f"learned from: lower reward_growth={growth} or reward_scale={scale}."
        )
