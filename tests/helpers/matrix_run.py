"""Rows of the promise matrix on two processes, all in one launch; each process saves what it found.

python matrix_run.py OUT NAME...                              # without names: what processes must agree on
python matrix_run.py table docs/reliability_matrix.md         # measures every row and writes the page's table
"""

import itertools
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.utils.data import IterableDataset

from law_lightning import LAWCallback, StrategyAgent
from law_lightning.second_network.evaluation import Evaluator
from matrix import CELLS, LOADERS, SAME, Cell, Fit, SeveralLoaders, law, measure, verdict
from zoo import AdamCosine, Base, run_script

BEGIN, END = "<!-- table: tests/helpers/matrix_run.py -->\n", "<!-- end -->\n"


class Flat(Base):
    """Three rows of the loss for each sample, as where positions are flattened into the batch."""

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0]).repeat_interleave(3, dim=0)
        logits[1::3] = 0  # always the first class
        return F.cross_entropy(logits, batch[1].repeat_interleave(3))


class Centred(Base):
    """A running mean of the inputs, of each process's own, is taken off them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 6, 6))

    def training_step(self, batch, batch_idx):
        self.mean.lerp_(batch[0].mean(0), 0.3)
        return super().training_step((batch[0] - self.mean, batch[1]), batch_idx)


class Count(L.Callback):
    """The accuracy as LAW finds it when training starts, and the share of all samples by an independent count."""

    @torch.no_grad()
    def on_train_start(self, trainer, pl_module):
        self.found = Evaluator(trainer)([pl_module])[0]
        shares = [trainer.datamodule.make(rank, trainer.world_size)[1] for rank in range(trainer.world_size)]
        alike = shares[0] if isinstance(shares[0], list) else shares[:1]  # the Trainer or a sampler shares these out
        loaders = shares if isinstance(alike[0].dataset, IterableDataset) else alike
        x, y = map(torch.stack, zip(*(sample for loader in loaders for sample in loader.dataset), strict=True))
        right = (pl_module.net.eval()(x).argmax(1) == y).double()
        if isinstance(pl_module, Flat):
            right = (2 * right + (y == 0)) / 3
        pl_module.net.train()
        self.expected = float(right.mean())


class Sharded(AdamCosine):
    def configure_model(self):
        fully_shard(self.net[1])
        fully_shard(self)

    def on_train_end(self):
        state = self.trainer.strategy.lightning_module_state_dict()
        self.whole = {name: value.full_tensor() for name, value in state.items()}


def sharded() -> dict:
    """FSDP2, as torch's first FSDP refuses the CPU: plain, with weights of one, and weighted."""
    states = []
    for noise in (None, 0.0, 2.0):
        callback = None if noise is None else law("apply", noise, "training")
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
        states.append(Fit(Cell("FSDP2", Sharded), callback, strategy=strategy, devices=2).module.whole)
    return {"sharded ones": verdict(states[1], states[0]), "sharded weights": verdict(states[2], states[0])}


def shared(**more) -> dict:
    """What processes must agree on: how each kind of validation data is counted, theta, buffers of their own."""
    found = {}
    for name, loaders in LOADERS.items():
        for module in (Base, Flat) if name != "several" else (SeveralLoaders,):
            count = Count()
            short = {"max_epochs": 1, "max_steps": 1, "num_sanity_val_steps": 0}
            Fit(Cell(name, module, {}, loaders), None, [count], **short, **more)
            found[f"count {name} {module.__name__}"] = (count.found, count.expected)
    found |= sharded()
    # Each process has another agent.
    agent = StrategyAgent(num_stages=5, warmup_stages=1, episode_noise=2.0, seed=torch.distributed.get_rank())
    fit = Fit(CELLS["adam"], LAWCallback(agent, keep="target"), **more)
    found["theta"] = [record["theta"] for record in fit.law.history]
    found["parameters"] = [parameter.detach() for parameter in fit.module.parameters()]
    # Buffers of the processes differ: for good, or while gradients accumulate unshared, when a step depends on them.
    for name, cell, options in (
        ("kept", CELLS["cnn"], {"broadcast_buffers": False}),
        ("used", Cell("", Centred, {"accumulate_grad_batches": 3}), {}),
    ):
        plain = Fit(cell, None, **more | {"strategy": DDPStrategy(**options)})
        zero = law("search", 0.0, explore=False, learn=False)
        Fit(cell, zero, **more | {"strategy": DDPStrategy(**options)})
        found[f"{name} buffers"] = verdict(zero.reference.state_dict(), plain.state)
        found[f"{name} rewards"] = [record["reward"] for record in zero.history]
    return found


def run(out: str, *names: str) -> None:
    more, cases = {"strategy": "ddp", "devices": 2}, itertools.product(names, ("search", "apply"))
    found = {(name, mode): measure(name, Path(out).parent, mode, **more) for name, mode in cases}
    torch.save(found if names else shared(**more), f"{out}.{torch.distributed.get_rank()}")


def on_two_processes(out: Path, *names: str) -> list[dict]:
    """What each of two processes finds."""
    run_script("matrix_run.py", out, *names, timeout=1200)
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in (0, 1)]


def entry(found: list[dict[str, str]]) -> str:
    wrong = {f"{what}: {verdict}" for each in found for what, verdict in each.items() if verdict != SAME}
    return "; ".join(sorted(wrong)) or SAME


def write_table(page: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        pair, rows = on_two_processes(Path(scratch) / "found", *CELLS), []
        for name, cell in CELLS.items():
            alone = [entry([measure(name, Path(scratch), mode)]) for mode in ("search", "apply")]
            together = [entry([found[name, mode] for found in pair]) for mode in ("search", "apply")]
            rows.append(f"| {cell.what} | {' | '.join(alone + together)} |")
    versions = f"Measured with torch {torch.__version__.split('+')[0]} and Lightning {L.__version__}."
    head = ["| what | one process, search | one process, apply | DDP, search | DDP, apply |", "|---" * 5 + "|"]
    before, rest = page.read_text().split(BEGIN)
    page.write_text("\n".join([f"{before}{BEGIN}{versions}\n", *head, *rows, f"{END}{rest.split(END)[1]}"]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if sys.argv[1] == "table":
        write_table(Path(sys.argv[2]))
    else:
        run(*sys.argv[1:])
