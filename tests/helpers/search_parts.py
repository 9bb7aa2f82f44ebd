"""What the tests of parallel searches send to worker processes; also a program that runs such a search."""

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from law_lightning import StrategyAgent, StrategySearch
from law_lightning.agent import strategy
from law_lightning.data import DigitsDataModule, UniformNoise
from law_lightning.models import MLP, ImageClassifier
from law_lightning.search.loop import SearchLoop
from law_lightning.search.state import SearchState
from law_lightning.search.workers import packed, unpacked
from law_lightning.utilities.files import digest

TRAINER = {"max_epochs": 4, "accelerator": "cpu"}


def make_module():
    return ImageClassifier(MLP((1, 8, 8), 10, hidden=(16,), dropout=0.1))


def make_data(train_size=60):
    return DigitsDataModule(train_size=train_size, val_size=100, batch_size=30, corruption=UniformNoise(0.4))


def new_search(run_dir=None, episodes=4, workers=1, bias=None, members=3, epochs=1, **kwargs):
    options = {"eval_every": 2, "eval_seeds": 2, "progress": False, "trainer_kwargs": TRAINER}
    agent = StrategyAgent(num_stages=4, warmup_stages=1, epochs=epochs, members=members)
    if bias is not None:  # a strategy that weighs from the start
        agent.actor.network[-1].bias.data.copy_(torch.tensor(bias))
    return StrategySearch(agent, episodes=episodes, workers=workers, run_dir=run_dir, **(options | kwargs))


def parts_of(search):
    """What a search sends to its workers."""
    return search.options, search.agent, packed(vars(search._state)), make_module, make_data


def count_steps(monkeypatch):
    """An entry for every training step of an ImageClassifier from now on."""
    steps, step = [], ImageClassifier.training_step
    monkeypatch.setattr(ImageClassifier, "training_step", lambda self, *args: steps.append(1) or step(self, *args))
    return steps


def everything(result):
    return {
        "agent": result.agent.full_state(),
        "gain": result.best_gain,
        "history": result.history,
        "buffer": result.buffer.state_dict(),
    }


def search_and_watch(group, report, *parts):
    """A worker's search that notes the agent after every update, and what torch's default group looks like."""
    seen = []
    update = strategy.StrategyAgent.full_data_update

    def watched(self, *args, **kwargs):
        logs = update(self, *args, **kwargs)
        learned = {name: self.full_state()[name] for name in ("networks", "optimizers")}
        seen.append(digest(learned))
        return logs

    strategy.StrategyAgent.full_data_update = watched
    options, agent, state, module, data = parts
    loop = SearchLoop(group, options, agent, SearchState(**unpacked(state)), module, data(), report)
    loop.run()
    return {"seen": group.gather(seen), "lengths": group.gather(len(loop._buffer))}


class StopEarly(L.Callback):
    """Ends the trainings of the second worker after three of four epochs."""

    def on_train_epoch_end(self, trainer, pl_module):
        if rank_zero_only.rank == 1 and trainer.current_epoch == 2:
            trainer.should_stop = True


class DyingData(DigitsDataModule):
    """Ends the process of one worker in its n-th training, as the kernel does when memory runs out."""

    def __init__(self, rank, after, how, **kwargs):
        super().__init__(**kwargs)
        self.rank, self.after, self.how = rank, after, how

    def train_dataloader(self):
        self.after -= 1
        if self.after == 0 and rank_zero_only.rank == self.rank:
            if self.how.startswith("killed"):
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("the data are gone")
        return super().train_dataloader()

    def on_before_batch_transfer(self, batch, dataloader_idx):
        if self.after == 0 and self.how == "killed while the other trains":
            time.sleep(1)  # long enough to be told to end
        return batch


def dying_data(rank, after, how):
    noise = UniformNoise(0.4)
    return DyingData(rank, after, how, train_size=60, val_size=100, batch_size=30, corruption=noise)


def main(run_dir, workers, episodes, seed_pool):
    search = new_search(run_dir, int(episodes), int(workers), seed_pool=int(seed_pool))
    result = search.run(make_module, partial(make_data, 60))
    if rank_zero_only.rank == 0:
        Path(run_dir, "digest.json").write_text(json.dumps(digest(everything(result))))


if __name__ == "__main__":
    main(*sys.argv[1:])
