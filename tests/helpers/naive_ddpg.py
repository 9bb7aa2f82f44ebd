"""DDPG a second time, in plain loops, and the agents and buffers that it is compared on."""

import math

import numpy as np
import torch

from law_lightning import ReplayBuffer, StrategyAgent, TrainingPhase

STAGES = 4
SMALL = {"num_stages": STAGES, "hidden": [6, 5, 4], "embedding_dim": 3, "batch_size": 4, "epochs": 3, "members": 1}
PAPER = {
    "target_rate": None, "standardize_rewards": False, "theta_bound": None,
    "actor_lr": 1e-3, "critic_lr": 3e-3, "discount": 0.9, "n_step": 1, "action_penalty": 0.0,
    "imitation": 0.0, "feature_scale": 1.0, "zero_init": False, "embedding_loss": "both",
}  # fmt: skip
FAST = {"actor_lr": 1e-3, "critic_lr": 3e-3}


def make(**options):
    return StrategyAgent(**(SMALL | options))


def filled(count=10, seed=0, width=5, stages=STAGES):
    draw, buffer = torch.Generator().manual_seed(seed), ReplayBuffer()
    for i in range(count + 1):
        if i == 5:  # one is missing, within an episode
            continue
        stage, numbers = i % stages, torch.rand(4, generator=draw).tolist()
        following = TrainingPhase(min(stage + 1, stages - 1), stages, *numbers[2:], noise_smooth=numbers[0])
        theta = torch.randn(width, generator=draw)
        reward = 0.1 * torch.randn(1, generator=draw).item() + 0.05
        phase = TrainingPhase(stage, stages, *numbers[:2], noise_smooth=numbers[3])
        buffer.add(phase, theta, reward, following, stage == stages - 1)
    return buffer


def same(a, b):
    """Two states are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def spread(agent, scale=0.5):
    """Move an agent's networks away from their start, where theta is 0."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=draw))
    return agent


class Naive:
    """DDPG of one member in plain torch: layers as matrices, Adam by hand, transitions in Python loops.

    Several workers are one learner that averages their gradients, each of its part of a batch.
    """

    def __init__(self, agent, member=0):
        def own(embedding, *networks):
            """Its tensors of the embedding, and pairs of matrix and bias of the others."""
            parts = [network.parameters() for network in (embedding, *networks)]
            parts = [[p[member].detach().clone().requires_grad_() for p in part] for part in parts]
            return parts[0][0], *(list(zip(part[::2], part[1::2], strict=True)) for part in parts[1:])

        options = self.options = dict(agent.hparams)
        self.member = member
        self.embedding, self.actor, self.critic = own(agent.embedding, agent.actor, agent.critic)
        self.bound = options["theta_bound"]
        self.scale = torch.tensor([options["feature_scale"]] * len(agent.features) + [1.0])
        self.rate = options["target_rate"]
        if self.rate is not None:  # the target networks may lag behind
            self.slow = own(agent.target_embedding, agent.target_actor, agent.target_critic)
        self.moments = {}
        self.updates = self.learned = 0

    @staticmethod
    def forward(layers, x):
        for i, (w, b) in enumerate(layers):
            x = x @ w + b
            if i < len(layers) - 1:
                x = x.clamp(min=0)
        return x

    def mu(self, actor, state):
        theta = self.forward(actor, state) * self.scale
        theta = theta if self.bound is None else self.bound * torch.tanh(theta / self.bound)
        if self.options["init"]:  # the rule general, for a margin that is the first feature
            gate = min(max((state[-1].item() - 0.5) / 0.15, 0.0), 1.0)
            theta = theta + torch.tensor([4.0 * gate, *[0.0] * (len(theta) - 2), 0.8 * gate])
        return theta

    def q(self, critic, state, theta):
        return self.forward(critic, torch.cat([state, theta]))[0]

    def state(self, embedding, stage, phase):
        return torch.cat([embedding[stage], phase[: 3 if self.options["init"] else 2]])

    def adam(self, parameters, losses, rate, of_critic=None):
        gradients = [torch.autograd.grad(loss, parameters) for loss in losses]
        for p, *g in zip(parameters, *gradients, strict=True):
            g = sum(g) / len(g)
            if p is self.embedding and of_critic is not None:
                g = g + of_critic
            t, m, v = self.moments.get(id(p), (0, torch.zeros_like(p), torch.zeros_like(p)))
            t, m, v = t + 1, 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            self.moments[id(p)] = t, m, v
            with torch.no_grad():
                p -= rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)

    def targets(self, rows):
        embedding, actor, critic = (self.embedding, self.actor, self.critic) if self.rate is None else self.slow
        targets = []
        for _, _, _, reward, following, phase, done, discount in rows:
            state = self.state(embedding, following, phase)
            value = self.q(critic, state, self.mu(actor, state)).item()
            targets.append(reward if done else reward + discount * value)
        return targets

    def critic_loss(self, rows):
        n, targets = len(rows), self.targets(rows)
        states = [self.state(self.embedding, stage, phase) for stage, phase, *_ in rows]
        values = [self.q(self.critic, s, row[2]) for s, row in zip(states, rows, strict=True)]
        loss = sum((q - y) ** 2 for q, y in zip(values, targets, strict=True)) / n
        return loss, sum(q.item() for q in values) / n

    def actor_loss(self, rows, targets):
        n, loss = len(rows), 0.0
        for row, target in zip(rows, targets, strict=True):
            state = self.state(self.embedding.detach(), row[0], row[1])
            phase = self.state(self.embedding, row[0], row[1])
            theta = self.mu(self.actor, phase)
            value = self.q(self.critic, state, theta)
            loss = loss - value / n
            worth = min(math.exp(target - value.item()), 20.0)
            distance = (((theta - row[2]) / self.scale) ** 2).sum()
            loss = loss + self.imitation * worth * distance / (2 * n)
            free = self.forward(self.actor, phase) * self.scale
            loss = loss + self.options["action_penalty"] * (free**2).sum() / (n * len(free))
        return loss

    def step(self, batch, workers):
        """One batch, of which every worker has a part; the losses and the mean Q."""
        size = len(batch) // workers or 1
        batches = [batch[at : at + size] for at in range(0, len(batch), size)]
        targets = [self.targets(rows) for rows in batches]  # before the critic learns from them
        critic_losses, q_means = zip(*map(self.critic_loss, batches), strict=True)
        of_critic = None
        if self.options["embedding_loss"] == "both":
            found = [torch.autograd.grad(loss, self.embedding, retain_graph=True)[0] for loss in critic_losses]
            of_critic = sum(found) / len(found)
        self.adam(flat(self.critic), critic_losses, self.options["critic_lr"])
        actor_losses = [self.actor_loss(*each) for each in zip(batches, targets, strict=True)]
        self.adam([*flat(self.actor), self.embedding], actor_losses, self.options["actor_lr"], of_critic)
        if self.rate is not None:
            slow = [self.slow[0], *flat(self.slow[1]), *flat(self.slow[2])]
            fast = [self.embedding, *flat(self.actor), *flat(self.critic)]
            for s, f in zip(slow, fast, strict=True):
                s.data = ((1 - self.rate) * s + self.rate * f).detach()
        parts = [*map(torch.Tensor.item, critic_losses)], [*map(torch.Tensor.item, actor_losses)], q_means
        return [sum(part) / len(part) for part in parts]

    def rows(self, buffer):
        """Its transitions, their rewards summed up over n steps."""
        columns = buffer.transitions()
        rewards, discount, rows = columns.reward.tolist(), self.options["discount"], []
        ended = [columns.done[i] or columns.stage[i + 1] != columns.next_stage[i] for i in range(len(rewards) - 1)]
        for i in range(len(rewards)):
            steps, total, last = 1, rewards[i], i
            while steps < (self.options["n_step"] or STAGES) and last + 1 < len(rewards) and not ended[last]:
                last += 1
                total += discount**steps * rewards[last]
                steps += 1
            rows.append((
                int(columns.stage[i]), columns.phase[i], columns.theta[i], total, int(columns.next_stage[last]),
                columns.next_phase[last], bool(columns.done[last]), discount**steps,
            ))  # fmt: skip
        return rows

    def update(self, *buffers, epochs, batch_size):
        """A full data update of one or several workers' buffers; the mean losses and the mean Q."""
        rows = [row for buffer in buffers for row in self.rows(buffer)]
        rewards = [row[3] for row in rows]
        mean = sum(rewards) / len(rewards)
        scale = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / len(rewards))
        if self.options["standardize_rewards"]:
            rows = [(*row[:3], row[3] / scale, *row[4:]) for row in rows]
        seeds = np.random.SeedSequence([self.options["seed"] + 2, self.updates])
        episodes = self.learned / (self.options["num_stages"] - self.options["warmup_stages"])
        self.imitation = self.options["imitation"] * self.options["noise_decay"] ** episodes
        generator = torch.Generator().manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        self.updates += 1
        self.learned += len(buffers)
        logs, size, members = [], batch_size * len(buffers), self.options["members"]
        left = math.ceil(epochs * len(rows) / members)
        while left > 0:
            orders = [torch.randperm(len(rows), generator=generator).tolist() for _ in range(members)]
            order = orders[self.member][:left]
            left -= len(order)
            batches = [order[at : at + size] for at in range(0, len(order), size)]
            logs += [self.step([rows[i] for i in batch], len(buffers)) for batch in batches]
        return [sum(column) / len(logs) for column in zip(*logs, strict=True)]


def flat(layers):
    return [p for layer in layers for p in layer]


def compare(agent, naive):
    """The member of an agent is the naive one, to within rounding."""
    mine = [agent.embedding, agent.actor, agent.critic]
    theirs = [naive.embedding, *flat(naive.actor), *flat(naive.critic)]
    if naive.rate is not None:
        mine += [agent.target_embedding, agent.target_actor, agent.target_critic]
        theirs += [naive.slow[0], *flat(naive.slow[1]), *flat(naive.slow[2])]
    parameters = [parameter[naive.member] for module in mine for parameter in module.parameters()]
    for a, b in zip(parameters, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)
