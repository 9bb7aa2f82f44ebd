"""What the tests of parallel searches send to worker processes; also a program that runs such a search."""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from law_lightning import StrategyAgent, StrategySearch
from law_lightning.data import DigitsDataModule, UniformNoise
from law_lightning.models import MLP, ImageClassifier
from law_lightning.search.loop import SearchLoop
from law_lightning.search.state import SearchState
from law_lightning.search.workers import packed, unpacked

TRAINER = {"max_epochs": 4, "accelerator": "cpu"}


def digest(state):
    """Of nested dicts, lists, tuples, tensors and plain Python, bit for bit; the same in every process."""
    hashed, waiting = hashlib.sha256(), [state]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += [part for item in each.items() for part in item]
        elif isinstance(each, (list, tuple)):
            waiting += each
        elif isinstance(each, torch.Tensor):
            hashed.update(f"{each.dtype}{tuple(each.shape)}".encode() + each.contiguous().numpy().tobytes())
        else:
            hashed.update(f"{each!r};".encode())
    return hashed.hexdigest()


def make_module():
    return ImageClassifier(MLP((1, 8, 8), 10, hidden=(16,), dropout=0.1))


SIZES = {"train_size": 60, "val_size": 100, "batch_size": 30}


def make_data():
    return DigitsDataModule(**SIZES, corruption=UniformNoise(0.4))


def new_search(run_dir=None, episodes=4, workers=1, bias=None, members=3, epochs=1, **kwargs):
    options = {"eval_every": 2, "eval_seeds": 2, "check_seeds": 0, "progress": False, "trainer_kwargs": TRAINER}
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
    return [result.agent.full_state(), result.best_gain, result.gain, result.history, result.buffer.state_dict()]


def search_and_watch(group, report, *parts):
    """A worker's search that notes the agent after every update."""
    seen, update = [], StrategyAgent.full_data_update

    def watched(self, *args, **kwargs):
        logs = update(self, *args, **kwargs)
        seen.append(digest({name: self.full_state()[name] for name in ("networks", "optimizers")}))
        return logs

    StrategyAgent.full_data_update = watched
    options, agent, state, module, data = parts
    loop = SearchLoop(group, options, agent, SearchState(**unpacked(state)), module, data(), report)
    loop.run()
    return {"seen": group.gather(seen), "lengths": group.gather(len(loop._buffer))}


class StopEarly(L.Callback):
    """Ends the trainings of a worker after three of four epochs."""

    def __init__(self, rank=1):
        self.rank = rank

    def on_train_epoch_end(self, trainer, pl_module):
        if rank_zero_only.rank == self.rank and trainer.current_epoch == 2:
            trainer.should_stop = True


class Plateau(ImageClassifier):
    """Its learning rate follows the validation loss."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}


class DyingData(DigitsDataModule):
    """Ends the process of one worker in its n-th training, as the kernel does when memory runs out, or raises."""

    def __init__(self, rank, after, how):
        super().__init__(**SIZES, corruption=UniformNoise(0.4))
        self.rank, self.after, self.how = rank, after, how

    def train_dataloader(self):
        self.after -= 1
        if self.after == 0 and rank_zero_only.rank == self.rank:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("the data are gone")
        return super().train_dataloader()


if __name__ == "__main__":
    run_dir, *numbers = sys.argv[1:]
    episodes, workers, pool = map(int, numbers)
    result = new_search(run_dir, episodes, workers, seed_pool=pool).run(make_module, make_data)
    if rank_zero_only.rank == 0:
        Path(run_dir, "digest.json").write_text(json.dumps(digest(everything(result))))
