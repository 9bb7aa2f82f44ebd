"""A full data update's speed beside DDPG of stable-baselines3 and torchrl, in one run.

    nox -s fdu

2 cores of an x86-64 server CPU, both busy with other work, hence processor time; one thread; torch 2.15.0,
stable-baselines3 2.9.2, torchrl 0.14.1, tensordict 0.14.3; 2026-11-28; medians of 7 rounds [min, max]:

   B  updates a second: ours    sb3  torchrl  default agent             times sb3         times torchrl
  64                     473    151      100            555     2.54 [2.27, 3.57]     4.92 [2.84, 6.07]
 128                     399    153       91            448     2.73 [2.24, 3.23]     4.82 [3.85, 5.45]
 256                     323    129       84            352     2.55 [1.82, 2.69]     3.85 [3.08, 4.26]
 512                     214    119       75            247     1.82 [1.45, 2.13]     3.01 [2.15, 3.63]

On a quieter and faster machine ours made 1,437, 1,157, 854 and 557 updates a second: 3.03, 2.76, 2.32 and 1.88 times
those of sb3.

Aim: at least 1.5 times the faster of the two at every B.

- An update is one step of one critic, one of the actor, and one of the target networks, on B of the same 2,000
  transitions: state 10, action 5, hidden 64, 64, 64, ReLU, tanh at the actor's end, Adam 1e-3, gamma 0.95, tau 0.01.
  A smaller batch at the end of an epoch of ours counts as the share of B that it is.
- default agent: one member of ours as it comes, with whole-episode returns and imitation, without target networks; it
  has three.
- Before timing: from the same weights on the same 128 transitions, critic losses agree within 1e-5 and, after one
  update, all but 0.5 % of the parameters of critic and actor within 2e-5 (in this run 2.2e-6, and all but 0.3 %).
- What differs: ours learns the embedding of the stage too, whose 8 numbers are a fixed part of the peers' states.
  stable-baselines3 draws rows with replacement, the others shuffle. Ours logs both losses, stable-baselines3 as well.
- The peers' settings: stable-baselines3's train() on its own ReplayBuffer; torchrl's DDPGLoss, SoftUpdate and
  TensorDictReplayBuffer (LazyTensorStorage) in a loop. Both have a fused Adam, which is not their default. Nothing is
  compiled.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.modules import ValueOperator
from torchrl.objectives import DDPGLoss, SoftUpdate, ValueEstimators

from law_lightning import ReplayBuffer, StrategyAgent, TrainingPhase
from law_lightning.agent import Transitions
from law_lightning.agent.networks import Actor, Critic

COUNT, STAGES, WARMUP = 2000, 20, 2
RATE, GAMMA, TAU, HIDDEN, STATE, ACTION = 1e-3, 0.95, 0.01, [64, 64, 64], 10, 5
PLAIN = {
    "standardize_rewards": False, "theta_bound": 1.0, "actor_lr": RATE, "critic_lr": RATE,
    "discount": GAMMA, "target_rate": TAU, "n_step": 1, "members": 1, "action_penalty": 0.0, "imitation": 0.0,
    "hidden": HIDDEN,
}  # fmt: skip


# -- the same transitions and networks for all -----------------------------------------------------------------


def make_buffer() -> ReplayBuffer:
    """Episodes of 18 stages with random phases, thetas and rewards."""
    draw, buffer = torch.Generator().manual_seed(0), ReplayBuffer()
    while len(buffer) < COUNT:
        stage = WARMUP + len(buffer) % (STAGES - WARMUP)
        numbers = torch.rand(5, generator=draw).tolist()
        buffer.add(
            TrainingPhase(stage, STAGES, numbers[0], numbers[1]),
            torch.rand(ACTION, generator=draw) * 2 - 1,
            numbers[4] - 0.5,
            TrainingPhase(min(stage + 1, STAGES - 1), STAGES, numbers[2], numbers[3]),
            stage == STAGES - 1,
        )
    return buffer


def observed(agent: StrategyAgent, transitions: Transitions) -> tuple[Tensor, Tensor]:
    """States and next states as the agent's embedding now makes them, for libraries without an embedding."""
    with torch.no_grad():
        embed = agent.embedding.weight
        return (
            torch.cat([embed[transitions.stage], transitions.phase], dim=1),
            torch.cat([embed[transitions.next_stage], transitions.next_phase], dim=1),
        )


def copy_layers(source: nn.Module, target: nn.Module) -> None:
    """Give the target's linear layers the weights of the source's."""
    layers = ([layer for layer in module.modules() if isinstance(layer, nn.Linear)] for module in (source, target))
    for mine, theirs in zip(*layers, strict=True):
        theirs.load_state_dict(mine.state_dict())


# -- one class a library: update(n) takes n updates from its own replay buffer ------------------------------------


class Ours:
    """A StrategyAgent, with the settings of plain DDPG or its own."""

    def __init__(self, batch_size: int, buffer: ReplayBuffer, options: dict[str, Any]) -> None:
        self.agent = StrategyAgent(batch_size=batch_size, **options)
        self.buffer, self.batch_size = buffer, batch_size
        self.per_epoch = -(-len(buffer) // batch_size)

    def update(self, count: int) -> float:
        """Whole epochs, at least ``count`` updates; how many of B rows they were, as an epoch's last is smaller."""
        epochs = -(-count // self.per_epoch)
        self.agent.full_data_update(self.buffer, epochs=epochs)
        return epochs * len(self.buffer) / self.batch_size

    def critic(self) -> nn.Module:
        """The critic."""
        return self.agent.critic

    def actor(self) -> nn.Module:
        """The actor."""
        return self.agent.actor

    def once(self, buffer: ReplayBuffer) -> float:
        """One update on all of a buffer; the critic's loss."""
        return self.agent.full_data_update(buffer, epochs=1, batch_size=len(buffer))["critic_loss"]


class World(gymnasium.Env[np.ndarray, np.ndarray]):
    """The spaces that stable-baselines3 asks for; no step is ever taken."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (STATE,))
    action_space = gymnasium.spaces.Box(-1, 1, (ACTION,))


class StableBaselines:
    """stable_baselines3.DDPG and its train()."""

    def __init__(self, batch_size: int, buffer: ReplayBuffer, agent: StrategyAgent) -> None:
        self.batch_size, self.agent = batch_size, agent
        self.model = sb3.DDPG(
            "MlpPolicy", World(), learning_rate=RATE, buffer_size=COUNT, batch_size=batch_size, tau=TAU, gamma=GAMMA,
            policy_kwargs={
                "net_arch": HIDDEN, "activation_fn": nn.ReLU, "n_critics": 1, "optimizer_kwargs": {"fused": True},
            },
            device="cpu", seed=0,
        )  # fmt: skip
        self.model.set_logger(configure(None, []))
        policy = self.model.policy
        for actor, critic in ((policy.actor, policy.critic), (policy.actor_target, policy.critic_target)):
            copy_layers(agent.actor, actor)
            copy_layers(agent.critic, critic)
        columns = buffer.transitions()
        state, following = (tensor.numpy() for tensor in observed(agent, columns))
        for i in range(len(buffer)):
            row = (columns.theta[i : i + 1].numpy(), columns.reward[i : i + 1].numpy(), columns.done[i : i + 1].numpy())
            self.model.replay_buffer.add(state[i : i + 1], following[i : i + 1], *row, [{}])

    def update(self, count: int) -> int:
        """As learn() does it."""
        self.model.train(gradient_steps=count, batch_size=self.batch_size)
        return count

    def critic(self) -> nn.Module:
        """The critic."""
        return self.model.critic

    def actor(self) -> nn.Module:
        """The actor."""
        return self.model.actor

    def once(self, buffer: ReplayBuffer) -> float:
        """One update on all of a buffer; the critic's loss."""
        columns = buffer.transitions()
        state, following = observed(self.agent, columns)
        batch = ReplayBufferSamples(
            state, columns.theta, following, columns.done.unsqueeze(1), columns.reward.unsqueeze(1)
        )
        self.model.replay_buffer.sample = lambda *args, **options: batch
        self.model.train(gradient_steps=1, batch_size=len(buffer))
        return float(self.model.logger.name_to_value["train/critic_loss"])


class Rl:
    """torchrl's DDPGLoss, SoftUpdate and replay buffer in a loop of one's own."""

    def __init__(self, batch_size: int, buffer: ReplayBuffer, agent: StrategyAgent) -> None:
        self.agent = agent
        actor, critic = Actor(STATE, torch.ones(ACTION), HIDDEN, 1.0, zero=True), Critic(STATE, ACTION, HIDDEN)
        copy_layers(agent.actor, actor)
        copy_layers(agent.critic, critic)
        self.loss = DDPGLoss(
            TensorDictModule(actor, ["observation"], ["action"]),
            ValueOperator(Column(critic), in_keys=["observation", "action"]),
            loss_function="l2", delay_actor=True, delay_value=True,
        )  # fmt: skip
        self.loss.make_value_estimator(ValueEstimators.TD0, gamma=GAMMA)
        self.follow = SoftUpdate(self.loss, tau=TAU)
        self.optimizers = [
            torch.optim.Adam(list(learned(parameters).values()), lr=RATE, fused=True)
            for parameters in (self.loss.value_network_params, self.loss.actor_network_params)
        ]
        self.replay = TensorDictReplayBuffer(
            storage=LazyTensorStorage(COUNT), sampler=SamplerWithoutReplacement(), batch_size=batch_size
        )
        self.replay.extend(self.table(buffer))

    def table(self, buffer: ReplayBuffer) -> TensorDict:
        """The transitions by torchrl's names."""
        columns = buffer.transitions()
        state, following = observed(self.agent, columns)
        done = columns.done.bool().unsqueeze(1)
        ahead = {"observation": following, "reward": columns.reward.unsqueeze(1), "done": done, "terminated": done}
        return TensorDict({"observation": state, "action": columns.theta, "next": ahead}, batch_size=[len(done)])

    def update(self, count: int) -> int:
        """As its documentation does it, the critic's step before the actor's."""
        for _ in range(count):
            self.step(self.replay.sample())
        return count

    def step(self, batch: TensorDict) -> Tensor:
        """One update; the critic's loss."""
        value_loss, _ = self.loss.loss_value(batch)
        self.optimizers[0].zero_grad()
        value_loss.backward()
        self.optimizers[0].step()
        actor_loss, _ = self.loss.loss_actor(batch)
        self.optimizers[1].zero_grad()
        actor_loss.backward()
        self.optimizers[1].step()
        self.follow.step()
        return value_loss.detach()

    def critic(self) -> nn.Module:
        """The critic."""
        return unpacked(self.loss.value_network_params)

    def actor(self) -> nn.Module:
        """The actor."""
        return unpacked(self.loss.actor_network_params)

    def once(self, buffer: ReplayBuffer) -> float:
        """One update on all of a buffer; the critic's loss."""
        return float(self.step(self.table(buffer)))


class Column(nn.Module):
    """The critic with a value of shape [N, 1]."""

    def __init__(self, critic: Critic) -> None:
        super().__init__()
        self.network = critic.network

    def forward(self, state: Tensor, theta: Tensor) -> Tensor:
        """Q, [N, 1]."""
        value: Tensor = self.network(torch.cat([state, theta], dim=-1))
        return value


def learned(parameters: TensorDict) -> dict[str, nn.Parameter]:
    """The parameters in a tensordict that holds a module's buffers, too."""
    return {name: tensor for name, tensor in parameters.flatten_keys("/").items() if isinstance(tensor, nn.Parameter)}


def unpacked(parameters: TensorDict) -> nn.Module:
    """A module that holds the parameters of a tensordict."""
    holder = nn.Module()
    for name, tensor in learned(parameters).items():
        holder.register_parameter(name.replace(".", "/"), nn.Parameter(tensor.detach().clone()))
    return holder


# -- the check and the times -------------------------------------------------------------------------------------


def check() -> dict[str, float]:
    """One update from the same weights on the same 128 transitions: how far the peers are from ours.

    Adam's first step is the rate times the sign of the gradient, so where that is next to nothing, rounding decides.
    """
    buffer = make_buffer()
    small = ReplayBuffer()
    small.load_state_dict({
        "capacity": None, "columns": {k: v[:128].clone() for k, v in buffer.transitions()._asdict().items()}
    })  # fmt: skip
    ours = Ours(128, buffer, PLAIN)
    agent = ours.agent
    with torch.no_grad():  # a new actor's last layer is zero, which would hide what happens below it
        for actor in (agent.actor, agent.target_actor):
            actor.scale.fill_(1.0)
            last = actor.network[-1].weight
            last.copy_(torch.linspace(-0.1, 0.1, last.numel()).view_as(last))
    peers = {"stable-baselines3": StableBaselines(128, buffer, agent), "torchrl": Rl(128, buffer, agent)}
    loss = ours.once(small)
    found = {}
    for name, peer in peers.items():
        found[f"{name}: critic loss"] = abs(peer.once(small) - loss)
        for part in ("critic", "actor"):
            pairs = zip(sizes(getattr(ours, part)()), sizes(getattr(peer, part)()), strict=True)
            apart = torch.cat([(a - b).abs().flatten() for a, b in pairs])
            found[f"{name}: share of the {part}'s parameters apart"] = float((apart > 2e-5).float().mean())
    for what, difference in found.items():
        if not difference <= (1e-5 if "loss" in what else 0.005):
            raise SystemExit(f"The libraries do not compute the same: {what} is {difference}.")
    return found


def sizes(module: nn.Module) -> list[Tensor]:
    """A network's parameters, weights before biases: libraries list them in different orders."""
    parameters = [parameter.detach() for parameter in module.parameters()]
    return [p for p in parameters if p.dim() == 2] + [p for p in parameters if p.dim() == 1]


def measure(batch_size: int, repeats: int, updates: int, read: Callable[[], float]) -> dict[str, Any]:
    """Rounds of every library in turn; ratios are taken within a round."""
    buffer = make_buffer()
    agent = StrategyAgent(**PLAIN)
    cases: dict[str, Any] = {
        "ours": Ours(batch_size, buffer, PLAIN),
        "stable-baselines3": StableBaselines(batch_size, buffer, copy.deepcopy(agent)),
        "torchrl": Rl(batch_size, buffer, copy.deepcopy(agent)),
        "ours, default agent": Ours(batch_size, buffer, {"members": 1}),
    }
    rounds: list[dict[str, float]] = []
    for index in range(repeats + 1):  # the first warms up and is not counted
        taken = {}
        names = list(cases)
        for name in names[index % len(names) :] + names[: index % len(names)]:
            begin = read()
            done = cases[name].update(updates)
            taken[name] = (read() - begin) / done
        if index:
            rounds.append(taken)

    def spread(value: Callable[[dict[str, float]], float]) -> dict[str, float]:
        values = [value(taken) for taken in rounds]
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    return {
        "ms": {name: spread(lambda taken, name=name: 1e3 * taken[name]) for name in cases},
        "ratio": {
            name: spread(lambda taken, name=name: taken[name] / taken["ours"])
            for name in cases if name in ("stable-baselines3", "torchrl")
        },
    }  # fmt: skip


def main() -> None:
    """Check, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[64, 128, 256, 512])
    parser.add_argument("--repeats", type=int, default=7, help="rounds (default: 7)")
    parser.add_argument("--updates", type=int, default=64, help="updates of each library in a round (default: 64)")
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu", help="cpu: processor time (default)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all numbers to this file")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("torchrl").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for what, difference in check().items():
        print(f"{what}: differs by {difference:.1e}")
    names = ", ".join(f"{name} {version(name)}" for name in ("torch", "stable-baselines3", "torchrl", "tensordict"))
    print(f"one thread, {os.cpu_count()} cores ({platform.machine()}); {names}; {args.clock} time\n")
    print(f"{'B':>4}  {'updates a second: ours':>22}  {'sb3':>5}  {'torchrl':>7}  {'default agent':>13}  "
          f"{'times sb3':>20}  {'times torchrl':>20}")  # fmt: skip
    results = {}
    for batch_size in args.batch_sizes:
        read = time.process_time if args.clock == "cpu" else time.perf_counter
        result = results[batch_size] = measure(batch_size, args.repeats, args.updates, read)
        speed = {name: 1e3 / spread["median"] for name, spread in result["ms"].items()}
        ratios = (f"{r['median']:.2f} [{r['min']:.2f}, {r['max']:.2f}]" for r in result["ratio"].values())
        print(
            f"{batch_size:>4}  {speed['ours']:>22.0f}  {speed['stable-baselines3']:>5.0f}  {speed['torchrl']:>7.0f}  "
            f"{speed['ours, default agent']:>13.0f}  " + "  ".join(f"{ratio:>20}" for ratio in ratios),
            flush=True,
        )
        if args.json is not None:
            args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
