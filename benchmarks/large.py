"""How memory and time grow: 10,000 stages of history, a million transitions, 1,000 episodes.

    nox -s large

2 cores of an x86-64 server CPU shared with other work, one thread; torch 2.15.0, lightning 2.6.6; once each, 2026-11-25
(commit 1b65a3e, where the phase needed no validation):

    10,000 stages      1.43 ms a stage in the first tenth, 1.42 in the last; 2.64 MiB of state at the end
    transitions        60 bytes each; 63 us an addition to 10,000, 69 to 1,000,000; with a capacity, 66
    an update          5.3 us a transition of 10,000, 4.8 of 100,000, 5.4 of 1,000,000
    1,000 episodes     0.09 s an episode at first, 0.24 in the 700th, when the capacity is reached, 0.28 in the last
                       844 MiB resident after the first hundred, 854 at the end; 2.7 MiB of files

So time grows with the buffer, as the update reads all of it, up to the capacity. What an episode takes more after that,
0.13 ms for each before it, is the writing of the search's state. Memory grows by what there is to remember.

- history: one fit of a small network with a strategy applied, as many stages as steps, each with a validation of one
  batch for the phase. What it holds is the size of the callback's part of a checkpoint.
- replay: transitions as a search makes them. An update is one pass over the buffer in batches of 128, of one member.
- limited: the same buffer with a capacity of a tenth; an addition lets the oldest go.
- search: episodes of 4 stages on 60 digits, with a capacity of 2,000 transitions. Memory is the process's own
  (resident), read when everything that can be freed was freed.
"""

from __future__ import annotations

import argparse
import gc
import io
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from common import QUIET, machine, quiet
from law_lightning import LAWCallback, ReplayBuffer, StrategyAgent, StrategySearch, TrainingPhase
from law_lightning.data import DigitsDataModule, UniformNoise
from law_lightning.models import MLP, ImageClassifier


class Growth(L.Callback):
    """When each step, here a stage, ended, and how large the state was after a tenth and at the end."""

    def __init__(self, law: LAWCallback, stages: int) -> None:
        self._law, self._at = law, (stages // 10, stages - 1)
        self.times: list[float] = []
        self.sizes: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """A stage is over."""
        self.times.append(time.process_time())
        if trainer.global_step in self._at:
            self.sizes.append(mebibytes(self._law.state_dict()))


def mebibytes(state: Any) -> float:
    """Size of a state in a file, in MiB."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.tell() / 2**20


def resident() -> float:
    """MiB of memory that the process holds."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def history(stages: int) -> None:
    """A fit of so many stages."""
    draw = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(64, 8, generator=draw), torch.randint(4, (64,), generator=draw))
    law = LAWCallback(StrategyAgent(num_stages=stages, warmup_stages=1, members=1), mode="apply")
    growth = Growth(law, stages)
    trainer = L.Trainer(**QUIET, accelerator="cpu", max_steps=stages, max_epochs=-1, callbacks=[law, growth])
    loaders = DataLoader(data, batch_size=16), DataLoader(data, batch_size=64)
    trainer.fit(ImageClassifier(nn.Linear(8, 4), lr=0.01), *loaders)
    tenth, taken = stages // 10, growth.times
    first, last = (1000 * (taken[end - 1] - taken[end - tenth]) / (tenth - 1) for end in (tenth, stages - 10))
    print(f"history of {stages:,} stages: a stage took {first:.2f} ms in the first tenth, {last:.2f} in the last;")
    print("  state {:.2f} MiB after a tenth, {:.2f} at the end".format(*growth.sizes))


def add_transitions(buffer: ReplayBuffer, count: int) -> float:
    """Add so many transitions; microseconds each."""
    theta = torch.zeros(5)
    start = time.process_time()
    for index in range(count):
        stage = index % 20
        phase, following = (TrainingPhase(min(number, 19), 20, 0.5, 0.5) for number in (stage, stage + 1))
        buffer.add(phase, theta, 0.01 * (index % 7), following, stage == 19)
    return 1e6 * (time.process_time() - start) / count


def replay(most: int) -> None:
    """A buffer that grows tenfold and tenfold."""
    agent, buffer = StrategyAgent(members=1), ReplayBuffer()
    for count in (most // 100, most // 10, most):
        each = add_transitions(buffer, count - len(buffer))
        start = time.process_time()
        agent.full_data_update(buffer)
        update = time.process_time() - start
        held = 2**20 * mebibytes(buffer.state_dict()) / count
        print(
            f"replay of {count:>9,}: {each:5.1f} us an addition, {held:.0f} bytes each; update {update:.2f} s, "
            f"{1e6 * update / count:.1f} us a transition"
        )
    limited = ReplayBuffer(capacity=most // 10)
    each = add_transitions(limited, most // 5)
    print(f"limited to {len(limited):,}: {each:.1f} us an addition, {mebibytes(limited.state_dict()):.1f} MiB held")


def make_module() -> L.LightningModule:
    """A small network."""
    return ImageClassifier(MLP((1, 8, 8), 10, hidden=(16,)))


def search(episodes: int) -> None:
    """A long search, in tenths."""
    make_data = partial(DigitsDataModule, train_size=60, val_size=100, batch_size=30, corruption=UniformNoise(0.4))
    with tempfile.TemporaryDirectory() as folder:
        for done in range(episodes // 10, episodes + 1, episodes // 10):
            searching = StrategySearch(
                StrategyAgent(num_stages=4, warmup_stages=1), episodes=done, eval_every=episodes, eval_seeds=1,
                check_seeds=0, trainer_kwargs={"max_epochs": 4, "accelerator": "cpu"}, capacity=2_000,
                progress=False, run_dir=folder,
            )  # fmt: skip
            start = time.process_time()
            searching.run(make_module, make_data)
            seconds = (time.process_time() - start) / (episodes // 10)
            files = sum(file.stat().st_size for file in Path(folder).glob("*.*"))
            print(
                f"search, episode {done:>5,}: {seconds:.3f} s an episode, {resident():.0f} MiB resident, "
                f"{files / 2**20:.2f} MiB of files",
                flush=True,
            )


def main(given: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stages", type=int, default=10_000)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--episodes", type=int, default=1_000)
    args = parser.parse_args(given)
    for name, least in (("stages", 20), ("transitions", 100), ("episodes", 10)):
        if getattr(args, name) < least:
            parser.error(f"--{name} must be at least {least}")
    quiet()
    torch.set_num_threads(1)
    print(machine())
    history(args.stages)
    replay(args.transitions)
    search(args.episodes)


if __name__ == "__main__":
    main()
