"""A full data update's speed beside DDPG of stable-baselines3 and torchrl, in one run.

    nox -s fdu

2 cores of an x86-64 server CPU, one of them busy with other work, hence processor time; one thread; torch 2.15.0,
stable-baselines3 2.9.2, torchrl 0.14.1, tensordict 0.14.3; 2026-11-29; medians of 7 rounds [min, max]; commit 9a3a16c:

  B  ours, updates a second  default agent  sb3  torchrl  times sb3          times torchrl
---  ----------------------  -------------  ---  -------  -----------------  -----------------
 64  845                     2040           675  369      1.24 [1.17, 1.28]  2.20 [2.10, 2.40]
128  737                     1496           591  345      1.25 [1.20, 1.30]  2.14 [2.03, 2.26]
256  588                     1057           505  333      1.18 [1.09, 3.52]  1.79 [1.70, 1.93]
512  409                     577            350  248      1.20 [1.05, 1.37]  1.55 [1.42, 1.85]

Aim: at least as fast as the faster of the two at every B. (It was 1.5 times, and reached, with backward passes written
by hand; now autograd differentiates the losses of ``law_lightning.functional``, for all members at once.)

- An update is one step of one critic, one of the actor, and one of the target networks, on B of 2,000 transitions:
  state 10, action 5, hidden 64, 64, 64, ReLU, tanh at the actor's end, Adam 1e-3, gamma 0.95, tau 0.01. A smaller batch
  at the end of an epoch of ours counts as the share of B that it is.
- ours: an agent of one member with the settings of plain DDPG. default agent: as it comes, with whole-episode returns
  and imitation, without target networks; updates a second of each of its members.
- What differs: ours learns the embedding of the stage too, whose 8 numbers are a fixed part of the peers' states.
  stable-baselines3 draws rows with replacement, the others shuffle. Ours logs both losses, stable-baselines3 as well.
- The peers' settings: stable-baselines3's train() on its own ReplayBuffer; torchrl's DDPGLoss, SoftUpdate and
  TensorDictReplayBuffer (LazyTensorStorage) in a loop. Both have a fused Adam, which is not their default. Nothing is
  compiled. That ours computes DDPG is what the tests of the agent show.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from importlib.metadata import version
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from common import machine, quiet, rotated, spread, table
from law_lightning import ReplayBuffer, StrategyAgent, TrainingPhase

COUNT, STAGES, WARMUP = 2000, 20, 2
RATE, GAMMA, TAU, HIDDEN, STATE, ACTION = 1e-3, 0.95, 0.01, [64, 64, 64], 10, 5
PLAIN = {
    "actor_lr": RATE, "critic_lr": RATE, "discount": GAMMA, "target_rate": TAU, "hidden": HIDDEN, "theta_bound": 1.0,
    "n_step": 1, "standardize_rewards": False, "action_penalty": 0.0, "imitation": 0.0, "members": 1,
}  # fmt: skip
PEERS = ("sb3", "torchrl")

#: Takes at least so many updates from its own buffer, and returns how many of B rows they were.
Update = Callable[[int], float]


def make_ours(batch_size: int, **options: Any) -> Update:
    """A StrategyAgent on episodes of 18 stages with random phases, thetas and rewards."""
    draw, buffer = torch.Generator().manual_seed(0), ReplayBuffer()
    for number in range(COUNT):
        stage = WARMUP + number % (STAGES - WARMUP)
        loss, acc, next_loss, next_acc, reward = torch.rand(5, generator=draw).tolist()
        phase = TrainingPhase(stage, STAGES, loss, acc)
        following = TrainingPhase(min(stage + 1, STAGES - 1), STAGES, next_loss, next_acc)
        buffer.add(phase, torch.rand(ACTION, generator=draw) * 2 - 1, reward - 0.5, following, stage == STAGES - 1)
    agent = StrategyAgent(batch_size=batch_size, **options)
    per_epoch = -(-COUNT // batch_size)

    def update(count: int) -> float:
        epochs = -(-count // per_epoch)
        agent.full_data_update(buffer, epochs=epochs)
        return epochs * COUNT / batch_size

    return update


def random_transitions() -> dict[str, Tensor]:
    """As many transitions for the peers: state, action, reward, next state and whether the episode ended."""
    draw = torch.Generator().manual_seed(0)
    widths = {"state": STATE, "action": ACTION, "reward": 1, "next_state": STATE}
    columns = {name: torch.rand(COUNT, width, generator=draw) * 2 - 1 for name, width in widths.items()}
    return columns | {"done": torch.arange(COUNT)[:, None] % (STAGES - WARMUP) == STAGES - WARMUP - 1}


def make_sb3(batch_size: int) -> Update:
    """stable_baselines3.DDPG and its train()."""
    import gymnasium
    import numpy as np
    import stable_baselines3 as sb3
    from stable_baselines3.common.logger import configure

    class World(gymnasium.Env[Any, Any]):  # the spaces that it asks for; no step is ever taken
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (STATE,))
        action_space = gymnasium.spaces.Box(-1, 1, (ACTION,))

    model = sb3.DDPG(
        "MlpPolicy", World(), learning_rate=RATE, buffer_size=COUNT, batch_size=batch_size, tau=TAU, gamma=GAMMA,
        policy_kwargs={
            "net_arch": HIDDEN, "activation_fn": nn.ReLU, "n_critics": 1, "optimizer_kwargs": {"fused": True},
        },
        device="cpu", seed=0,
    )  # fmt: skip
    model.set_logger(configure(None, []))
    columns = {name: column.numpy() for name, column in random_transitions().items()}
    for row in range(COUNT):
        names = ("state", "next_state", "action", "reward", "done")
        model.replay_buffer.add(*(columns[name][row] for name in names), [{}])

    def update(count: int) -> float:
        model.train(gradient_steps=count, batch_size=batch_size)
        return count

    return update


def make_torchrl(batch_size: int) -> Update:
    """DDPGLoss of torchrl, SoftUpdate and replay buffer in a loop of one's own."""
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
    from torchrl.modules import MLP, ValueOperator
    from torchrl.objectives import DDPGLoss, SoftUpdate, ValueEstimators

    layers = {"num_cells": HIDDEN, "activation_class": nn.ReLU}
    actor = nn.Sequential(MLP(in_features=STATE, out_features=ACTION, **layers), nn.Tanh())
    loss = DDPGLoss(
        TensorDictModule(actor, ["observation"], ["action"]),
        ValueOperator(MLP(in_features=STATE + ACTION, out_features=1, **layers), in_keys=["observation", "action"]),
        loss_function="l2", delay_actor=True, delay_value=True,
    )  # fmt: skip
    loss.make_value_estimator(ValueEstimators.TD0, gamma=GAMMA)
    follow = SoftUpdate(loss, tau=TAU)
    optimizers = [
        torch.optim.Adam(
            [each for each in network.values(True, True) if isinstance(each, nn.Parameter)], lr=RATE, fused=True
        )
        for network in (loss.value_network_params, loss.actor_network_params)
    ]
    replay = TensorDictReplayBuffer(
        storage=LazyTensorStorage(COUNT), sampler=SamplerWithoutReplacement(), batch_size=batch_size
    )
    rows = random_transitions()
    ahead = {"observation": rows["next_state"], "reward": rows["reward"], "done": rows["done"]}
    ahead["terminated"] = rows["done"]
    replay.extend(TensorDict({"observation": rows["state"], "action": rows["action"], "next": ahead}, [COUNT]))

    def update(count: int) -> float:
        """As its documentation does it, the critic's step before the actor's."""
        for _ in range(count):
            batch = replay.sample()
            for optimizer, of in zip(optimizers, (loss.loss_value, loss.loss_actor), strict=True):
                value, _ = of(batch)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
            follow.step()
        return count

    return update


def measure(batch_size: int, repeats: int, updates: int) -> dict[str, list[float]]:
    """Seconds of an update in each round; every round takes the libraries in turn."""
    cases = {
        "ours": make_ours(batch_size, **PLAIN), "default agent": make_ours(batch_size),
        "sb3": make_sb3(batch_size), "torchrl": make_torchrl(batch_size),
    }  # fmt: skip
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for index in range(repeats + 1):  # the first warms up and is not counted
        for name in rotated(list(cases), index):
            begin = time.process_time()
            done = cases[name](updates)
            if index:
                taken[name].append((time.process_time() - begin) / done)
    return taken


def row_of(batch_size: int, taken: dict[str, list[float]]) -> list[str]:
    """The speed of each library, and its ratios to ours, which are taken within a round."""
    speeds = [f"{1 / median(seconds):.0f}" for seconds in taken.values()]
    ratios = [spread([peer / ours for peer, ours in zip(taken[name], taken["ours"], strict=True)]) for name in PEERS]
    return [f"{batch_size:3}", *speeds, *ratios]


def main(given: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[64, 128, 256, 512])
    parser.add_argument("--repeats", type=int, default=7, help="rounds (default: 7)")
    parser.add_argument("--updates", type=int, default=64, help="updates of each library in a round (default: 64)")
    args = parser.parse_args(given)
    quiet()
    logging.getLogger("torchrl").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    names = ", ".join(f"{name} {version(name)}" for name in ("stable-baselines3", "torchrl", "tensordict"))
    print(f"{machine()}; {names}; processor time, medians of {args.repeats} rounds [min, max]\n")
    rows = [["  B", "ours, updates a second", "default agent", *PEERS, *(f"times {name}" for name in PEERS)]]
    rows += [row_of(size, measure(size, args.repeats, args.updates)) for size in args.batch_sizes]
    print(table(rows))


if __name__ == "__main__":
    main()
