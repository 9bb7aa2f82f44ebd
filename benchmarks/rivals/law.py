"""LAW's own search within the budget, and the variants of its agent."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

from law_lightning import StrategyAgent, StrategySearch
from rivals.lab import Lab
from rivals.schedules import NUM_STAGES, WARMUP_STAGES
from rivals.training import StepLedger

_PARAMETERS = inspect.signature(StrategySearch).parameters
#: Whether references can be kept and shared, which about halves what an episode costs.
POOLED = "seed_pool" in _PARAMETERS
SEED_POOL = 8


@dataclass(frozen=True)
class Variant:
    """What differs from the package's defaults.

    Attributes:
        agent: arguments of StrategyAgent.
        law: arguments of LAWCallback, in the search and afterwards.
        search: arguments of StrategySearch.
    """

    agent: dict[str, Any] = field(default_factory=dict)
    law: dict[str, Any] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)


LAW = "law"
#: One switch at a time.
VARIANTS = {
    LAW: Variant(),
    "law_training_accuracy": Variant(agent={"phase_accuracy": "training"}),
    "law_one_member": Variant(agent={"members": 1}),
    "law_five_members": Variant(agent={"members": 5}),
    "law_target_nets": Variant(agent={"target_rate": 0.01}),
    "law_raw_rewards": Variant(agent={"standardize_rewards": False}),
    "law_bootstrap": Variant(agent={"n_step": 1, "target_rate": 0.01}),
    "law_five_steps": Variant(agent={"n_step": 5, "target_rate": 0.01}),
    "law_discount_0.8": Variant(agent={"discount": 0.8}),
    "law_discount_1": Variant(agent={"discount": 1.0}),
    "law_slow_actor": Variant(agent={"actor_lr": 3e-4}),
    "law_paper_rates": Variant(agent={"actor_lr": 1e-5, "critic_lr": 1e-4}),
    "law_two_passes": Variant(agent={"epochs": 2}),
    "law_stage_noise": Variant(agent={"episode_noise": 0.0, "stage_noise": 0.7}),
    "law_episode_noise": Variant(agent={"stage_noise": 0.0}),
    "law_constant_noise": Variant(agent={"noise_decay": 1.0}),
    "law_no_penalty": Variant(agent={"action_penalty": 0.0}),
    "law_penalty_0.3": Variant(agent={"action_penalty": 0.3}),
    "law_no_imitation": Variant(agent={"imitation": 0.0}),
    "law_imitation_1": Variant(agent={"imitation": 1.0}),
    "law_three_passes": Variant(agent={"epochs": 3}),
    "law_small_embedding": Variant(agent={"embedding_dim": 2}),
    "law_bound_2": Variant(agent={"theta_bound": 2.0}),
    "law_flat_reward": Variant(law={"reward_growth": 0.0}),
    "law_growing_reward": Variant(law={"reward_growth": 1.0}),
    "law_renormalized": Variant(law={"renormalize": True}),
    "law_often_evaluated": Variant(search={"eval_every": 10}),
    **({"law_no_pool": Variant(search={"seed_pool": 0})} if POOLED else {}),
}


def search_law(lab: Lab, variant: Variant) -> tuple[StrategyAgent, list[dict[str, Any]]]:
    """Search for a strategy.

    Returns:
        The strategy, and the search's history.
    """
    search = ({"seed_pool": SEED_POOL} if POOLED else {}) | variant.search
    costs = {name: search.get(name, _PARAMETERS[name].default) for name in ("eval_every", "eval_seeds")}
    costs["seed_pool"] = search.get("seed_pool", 0)
    agent = StrategyAgent(
        **{"num_stages": NUM_STAGES, "warmup_stages": WARMUP_STAGES, "seed": lab.seed} | variant.agent
    )
    result = StrategySearch(
        agent,
        episodes=affordable_episodes(lab.budget, agent.warmup_stages / agent.num_stages, **costs),
        trainer_kwargs={**lab.task.trainer_kwargs, "callbacks": [StepLedger(lab.ledger)]},
        law_kwargs=variant.law,
        seed=lab.seed,
        progress=False,
        **search,
    ).run(lab.task.make_module, lab.task.make_datamodule)
    return result.agent, result.history


def search_cost(episodes: int, warmup: float, eval_every: int, eval_seeds: int, seed_pool: int = 0) -> float:
    """What a search costs, in trainings.

    Args:
        episodes: of the search.
        warmup: share of a training in which one network trains for target and reference.
        eval_every: episodes between evaluations of the greedy strategy; one comes before the first, one at the end.
        eval_seeds: trainings of an evaluation; those of the first are also the plain networks.
        seed_pool: seeds whose warm-up and reference are trained only once; 0 trains them in every episode.
    """
    seeds = min(episodes, seed_pool) if seed_pool else episodes
    evaluations = 1 + -(-episodes // eval_every)
    return (1 - warmup) * (episodes + seeds) + warmup * seeds + eval_seeds * evaluations


def affordable_episodes(budget: float, warmup: float, **costs: Any) -> int:
    """The most episodes whose search costs no more than ``budget`` trainings; at least one."""
    episodes = 1
    while search_cost(episodes + 1, warmup, **costs) <= budget:
        episodes += 1
    return episodes
