"""What the callback costs: a plain Lightning fit, apply mode and search mode, side by side in one run.

    python benchmarks/overhead.py --cases cnn resnet18 mlp --repeats 3

2 cores of an x86-64 server CPU, one of them busy with other work (hence processor time, on one thread), torch 2.15.0,
lightning 2.6.6, 2026-11-29 (commit 9a3a16c); medians of 3 rounds [min, max]:

case      mode    whole fit / plain     aim   step in a stage / plain  stage end  peak memory
--------  ------  --------------------  ----  -----------------------  ---------  -----------
cnn       plain   105.98 ms a step                                                220 MiB
          apply   1.079 [1.050, 1.087]        1.024 [1.000, 1.038]     49.5 ms    205 MiB
          search  1.865 [1.831, 1.870]  1.84  2.046 [2.020, 2.052]     104.1 ms   197 MiB
resnet18  plain   312.21 ms a step                                                308 MiB
          apply   1.022 [1.014, 1.040]  1.02  1.006 [1.001, 1.012]     93.6 ms    315 MiB
          search  1.738 [1.714, 1.746]  1.79  2.021 [1.975, 2.039]     188.0 ms   471 MiB
mlp       plain   1.67 ms a step                                                  18 MiB
          apply   1.365 [1.338, 1.368]  1.30  1.362 [1.327, 1.363]     4.1 ms     21 MiB
          search  1.982 [1.972, 2.013]  1.99  2.070 [2.065, 2.099]     8.5 ms     26 MiB

Aims: apply at most 1.02 on the ResNet and 1.3 on the MLP; search at most 1.02 (2 - warm-up share), the warm-up being
one of 4, 5 or 20 stages here. Apply misses both, on the ResNet by 0.002; search misses its aim on the CNN by 0.02.
Apply validates the network at every stage's end, for the phase: here once in 10 to 40 steps. In longer stages that
weighs less: in stages of 12 steps the same fit of the ResNet cost 1.06.

- mlp: 64-128-128-10 on 8x8 images. cnn: the package's SmallCNN on 3x32x32. resnet18: with a CIFAR stem. Data are
  random. With ``--device cuda`` stages are longer, and the ResNet's batches have 128 images instead of 16.
- A round is one fit in each mode, one after the other; ratios are taken within a round.
- whole fit: from before the callbacks' set-up to after on_train_end, with the Trainer's validation and the work at
  stage ends. (In the table above the set-up is left out.)
- step in a stage: a step after the warm-up, without either of these; about 2 in a search.
- stage end: what a step that ends a stage takes longer: the validation of one network or two, the reward and the
  strategy's update (whose buffer grows with the episodes).
- peak memory: what one fit adds to a fresh process; on a GPU the most that was allocated.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from common import QUIET, keep_freed_memory, machine, quiet, rotated, spread, table
from law_lightning import LAWCallback, StrategyAgent
from law_lightning.models import MLP, ImageClassifier, SmallCNN, cifar_resnet18

MODES = ("plain", "apply", "search")
APPLY_AIM = {"mlp": 1.3, "resnet18": 1.02}
SEARCH_AIM = 1.02  # times (2 - warm-up share)
NUM_CLASSES = 10


@dataclass(frozen=True)
class Case:
    """A network and the run it is timed in; one epoch is ``epoch_steps`` batches and one Trainer validation.

    Attributes:
        shape: of one input.
        batch_size: samples in a batch, of training and validation.
        epoch_steps: training batches in an epoch.
        val_batches: validation batches.
        stage_epochs: epochs in a stage.
        num_stages: stages in the run; the first is the warm-up.
    """

    shape: tuple[int, int, int]
    batch_size: int
    epoch_steps: int
    val_batches: int
    stage_epochs: int
    num_stages: int

    @property
    def stage_steps(self) -> int:
        """Optimizer steps in a stage."""
        return self.epoch_steps * self.stage_epochs


CASES = {
    "mlp": Case((1, 8, 8), 128, epoch_steps=10, val_batches=3, stage_epochs=3, num_stages=20),
    "cnn": Case((3, 32, 32), 128, epoch_steps=5, val_batches=1, stage_epochs=2, num_stages=5),
    "resnet18": Case((3, 32, 32), 16, epoch_steps=4, val_batches=1, stage_epochs=10, num_stages=4),
}
GPU_CASES = {
    "mlp": CASES["mlp"],
    "cnn": replace(CASES["cnn"], epoch_steps=40, val_batches=10, num_stages=20),
    "resnet18": replace(CASES["resnet18"], batch_size=128, epoch_steps=40, val_batches=10, num_stages=20),
}


def make_module(name: str) -> L.LightningModule:
    """A new module of a case."""
    shape = CASES[name].shape
    if name == "mlp":
        return ImageClassifier(MLP(shape, NUM_CLASSES, hidden=(128, 128)), lr=0.01)
    make = cifar_resnet18 if name == "resnet18" else SmallCNN
    return ImageClassifier(make(shape, NUM_CLASSES), lr=0.01)


def make_loaders(case: Case) -> list[DataLoader[Any]]:
    """Random images and labels, in memory: for training and validation."""
    loaders = []
    for batches, shuffle in ((case.epoch_steps, True), (case.val_batches, False)):
        count = batches * case.batch_size
        data = TensorDataset(torch.randn(count, *case.shape), torch.randint(NUM_CLASSES, (count,)))
        loaders.append(DataLoader(data, batch_size=case.batch_size, shuffle=shuffle))
    return loaders


# -- time ------------------------------------------------------------------------------------------------------


class Clock(L.Callback):
    """Notes the time before a fit, after each step with all that callbacks do at its end, and after the fit.

    Stands last among the callbacks. On a GPU it notes events, so that nothing waits for them.
    """

    def __init__(self, case: Case, device: str) -> None:
        self._case, self._device = case, device
        self._stamps: list[Any] = []

    def _note(self) -> None:
        if self._device == "cuda":
            self._stamps.append(torch.cuda.Event(enable_timing=True))
            self._stamps[-1].record()
        else:
            self._stamps.append(time.process_time())

    def _seconds(self, begin: Any, end: Any) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
            return float(begin.elapsed_time(end)) / 1e3
        return float(end - begin)

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """The fit begins."""
        self._note()

    def on_train_batch_end(self, *args: Any) -> None:
        """A step was taken."""
        self._note()

    def on_train_end(self, *args: Any) -> None:
        """The fit is over."""
        self._note()

    @property
    def whole(self) -> float:
        """Seconds of the whole fit."""
        return self._seconds(self._stamps[0], self._stamps[-1])

    def _after_warmup(self, ends_stage: bool) -> list[float]:
        """Seconds of the steps that end a stage, or of those within one but for an epoch's first."""
        case, found = self._case, []
        for done, (begin, end) in enumerate(pairwise(self._stamps[:-1]), start=1):
            within = done % case.stage_steps == 0 if ends_stage else done % case.epoch_steps not in (0, 1)
            if within and done > case.stage_steps:
                found.append(self._seconds(begin, end))
        return found

    @property
    def step(self) -> float:
        """Seconds of a step inside a stage."""
        steps = self._after_warmup(ends_stage=False)
        return sum(steps) / len(steps)

    @property
    def stage_end(self) -> float:
        """Seconds that a step takes longer if it ends a stage."""
        return median(self._after_warmup(ends_stage=True)) - self.step


def fit(name: str, case: Case, mode: str, device: str) -> Clock:
    """Train once; the times it took."""
    L.seed_everything(0, verbose=False)
    agent, callbacks = StrategyAgent(num_stages=case.num_stages, warmup_stages=1), []
    if mode != "plain":
        callbacks = [LAWCallback(agent, mode=mode)]  # type: ignore[arg-type]
    clock = Clock(case, device)
    trainer = L.Trainer(
        **QUIET,
        accelerator="gpu" if device == "cuda" else "cpu",
        max_epochs=case.stage_epochs * case.num_stages,
        callbacks=[*callbacks, clock],
    )
    trainer.fit(make_module(name), *make_loaders(case))
    return clock


def measure_time(name: str, case: Case, device: str, repeats: int, bar: tqdm[Any]) -> list[dict[str, Clock]]:
    """Rounds of one fit a mode, each round starting with another mode."""
    rounds = []
    for index in range(repeats + 1):  # the first round warms up and is not counted
        clocks = {}
        for mode in rotated(MODES, index):
            bar.set_description(f"{name} {mode}")
            gc.collect()
            clocks[mode] = fit(name, case if index else replace(case, num_stages=2), mode, device)
            bar.update()
        rounds.append(clocks)
    return rounds[1:]


# -- memory ----------------------------------------------------------------------------------------------------


def peak_memory(device: str) -> float:
    """The most memory that this process has held, in MiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1024**2
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux getrusage may answer with the peak of the process that started this one
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return float(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def probe_memory(name: str, case: Case, mode: str, device: str) -> float:
    """MiB that one short fit adds to this process, which must be a fresh one."""
    quiet()
    torch.set_num_threads(1)
    # Three stages: the warm-up, one with both networks, and its evaluation.
    brief = replace(case, num_stages=3, stage_epochs=1, epoch_steps=min(case.epoch_steps, 5))
    before = peak_memory(device)
    fit(name, brief, mode, device)
    return peak_memory(device) - before


def measure_memory(name: str, case: Case, device: str, bar: tqdm[Any]) -> dict[str, float]:
    """Peak memory of each mode in MiB, each in a fresh process."""
    memory = {}
    for mode in MODES:
        bar.set_description(f"{name} {mode}, memory")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            memory[mode] = pool.submit(probe_memory, name, case, mode, device).result()
        bar.update()
    return memory


# -- report ----------------------------------------------------------------------------------------------------


def rows_of(name: str, case: Case, rounds: list[dict[str, Clock]], memory: dict[str, float]) -> list[list[str]]:
    """A line for each mode; ratios are taken within a round."""
    peaks = {mode: f"{value:.0f} MiB" for mode, value in memory.items()}
    steps = case.stage_steps * case.num_stages
    plain = median(clocks["plain"].whole for clocks in rounds)
    aims = {"apply": APPLY_AIM.get(name), "search": SEARCH_AIM * (2 - 1 / case.num_stages)}
    rows = [[name, "plain", f"{1e3 * plain / steps:.2f} ms a step", "", "", "", peaks.get("plain", "")]]
    for mode, aim in aims.items():
        rows.append([
            "", mode,
            spread([clocks[mode].whole / clocks["plain"].whole for clocks in rounds], 3),
            "" if aim is None else f"{aim:.2f}",
            spread([clocks[mode].step / clocks["plain"].step for clocks in rounds], 3),
            f"{1e3 * median(clocks[mode].stage_end for clocks in rounds):.1f} ms",
            peaks.get(mode, ""),
        ])  # fmt: skip
    return rows


def arguments(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--repeats", type=int, default=5, help="rounds of plain, apply, search (default: 5)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    args = parser.parse_args(given)
    if args.repeats < 1:
        parser.error("--repeats must be at least 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    return args


def main(given: list[str] | None = None) -> None:
    """Measure and print."""
    args = arguments(given)
    quiet()
    torch.set_num_threads(1)  # waiting threads make a busy machine's times meaningless
    cases = CASES if args.device == "cpu" else GPU_CASES
    keep_freed_memory()
    heading = ["case", "mode", "whole fit / plain", "aim", "step in a stage / plain", "stage end", "peak memory"]
    rows = [heading]
    with tqdm(total=len(MODES) * len(args.cases) * (args.repeats + 1 + (not args.no_memory)), unit="fit") as bar:
        for name in args.cases:
            rounds = measure_time(name, cases[name], args.device, args.repeats, bar)
            memory = {} if args.no_memory else measure_memory(name, cases[name], args.device, bar)
            rows += rows_of(name, cases[name], rounds, memory)
    clock = "processor time" if args.device == "cpu" else "the GPU's time"
    print(f"{machine(args.device)}; {clock}, medians of {args.repeats} rounds [min, max]\n\n{table(rows)}")


if __name__ == "__main__":
    main()
