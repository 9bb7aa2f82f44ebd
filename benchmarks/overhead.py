"""What the callback costs: a plain Lightning fit, apply mode and search mode, side by side in one run.

    python benchmarks/overhead.py --cases cnn resnet18 mlp --repeats 3

2 cores of an x86-64 server CPU shared with other work (hence processor time, on one thread), torch 2.15.0, lightning
2.6.6, 2026-11-29; medians of 3 rounds [min, max]:

case      mode    whole fit / plain     aim   step in a stage / plain  stage end  peak memory
--------  ------  --------------------  ----  -----------------------  ---------  -----------
cnn       plain   99.79 ms a step                                                 204 MiB
          apply   1.078 [1.050, 1.078]        1.020 [1.000, 1.023]     48.2 ms    161 MiB
          search  1.829 [1.815, 1.847]  1.89  2.008 [1.994, 2.022]     94.4 ms    237 MiB
resnet18  plain   304.43 ms a step                                                315 MiB
          apply   1.064 [1.008, 1.085]  1.05  1.040 [0.961, 1.041]     94.5 ms    304 MiB
          search  1.804 [1.670, 1.859]  1.84  2.035 [1.894, 2.149]     175.9 ms   453 MiB
mlp       plain   1.61 ms a step                                                  16 MiB
          apply   1.346 [1.289, 1.375]  1.30  1.307 [1.286, 1.358]     3.3 ms     20 MiB
          search  1.993 [1.918, 2.025]  2.05  2.083 [1.994, 2.155]     6.8 ms     24 MiB

Aims: apply at most 1.05 on the ResNet and 1.3 on the MLP; search at most 1.05 (2 - warm-up share), the warm-up being
one of 4, 5 or 20 stages here. Apply misses both since it validates the network at every stage's end, for the phase:
here once in 10 to 30 steps. In longer stages it weighs less, and without it (phase_accuracy="training") the fit cost
1.00 on the ResNet and 1.28 on the MLP when that was the default.

- mlp: 64-128-128-10 on 8x8 images. cnn: the package's SmallCNN on 3x32x32. resnet18: torchvision's with a CIFAR stem.
  Data are random. With ``--device cuda`` stages are longer, and the ResNet's batches have 128 images instead of 16.
- A round is one fit in each mode, one after the other; ratios are taken within a round.
- whole fit: from on_train_start to on_train_end, with the Trainer's validation and the work at stage ends.
- step in a stage: a step after the warm-up, without either of these; about 2 in a search.
- stage end: the validation of one network or two, the reward and the strategy's update (whose buffer grows with the
  episodes).
- peak memory: what one fit adds to a fresh process; on a GPU the most that was allocated.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from law_lightning import LAWCallback, StrategyAgent
from law_lightning.models import MLP, ImageClassifier, SmallCNN
from quiet import quiet

MODES = ("plain", "apply", "search")
APPLY_AIM = {"mlp": 1.3, "resnet18": 1.05}
SEARCH_AIM = 1.05  # times (2 - warm-up share)
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

    shape: tuple[int, ...]
    batch_size: int
    epoch_steps: int
    val_batches: int
    stage_epochs: int
    num_stages: int

    @property
    def stage_steps(self) -> int:
        """Optimizer steps in a stage."""
        return self.epoch_steps * self.stage_epochs

    @property
    def search_aim(self) -> float:
        """The ratio that search should not exceed: in the warm-up one network trains for both."""
        return SEARCH_AIM * (2 - 1 / self.num_stages)


CASES = {
    "mlp": Case((1, 8, 8), 128, epoch_steps=10, val_batches=3, stage_epochs=3, num_stages=20),
    "cnn": Case((3, 32, 32), 128, epoch_steps=5, val_batches=1, stage_epochs=2, num_stages=5),
    "resnet18": Case((3, 32, 32), 16, epoch_steps=4, val_batches=1, stage_epochs=3, num_stages=4),
}
GPU_CASES = {
    "mlp": CASES["mlp"],
    "cnn": replace(CASES["cnn"], epoch_steps=40, val_batches=10, num_stages=20),
    "resnet18": replace(CASES["resnet18"], batch_size=128, epoch_steps=40, val_batches=10, num_stages=20),
}


def resnet18() -> nn.Module:
    """ResNet-18 for 32x32 images: torchvision's with a 3x3 first convolution and no pooling after it."""
    try:
        from torchvision.models import resnet18 as build
    except ImportError as error:
        raise SystemExit(
            "resnet18 needs torchvision: pip install torchvision, or leave it out: --cases mlp cnn"
        ) from error
    network: nn.Module = build(num_classes=NUM_CLASSES)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def make_module(name: str) -> L.LightningModule:
    """A new module of a case."""
    shape = CASES[name].shape
    networks: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: MLP(shape, NUM_CLASSES, hidden=(128, 128)),
        "cnn": lambda: SmallCNN(shape, NUM_CLASSES),
        "resnet18": resnet18,
    }
    return ImageClassifier(networks[name](), lr=0.01)


def make_loaders(case: Case) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Random images and labels, in memory."""
    loaders = []
    for batches, shuffle in ((case.epoch_steps, True), (case.val_batches, False)):
        count = batches * case.batch_size
        data = TensorDataset(torch.randn(count, *case.shape), torch.randint(NUM_CLASSES, (count,)))
        loaders.append(DataLoader(data, batch_size=case.batch_size, shuffle=shuffle))
    return loaders[0], loaders[1]


def make_callback(mode: str, case: Case) -> LAWCallback | None:
    """The callback of a mode; None for plain training."""
    if mode == "plain":
        return None
    agent = StrategyAgent(num_stages=case.num_stages, warmup_stages=1)
    return LAWCallback(agent, mode="apply") if mode == "apply" else LAWCallback(agent)


# -- time ------------------------------------------------------------------------------------------------------


class Clock:
    """Reads the time around a fit; waits for the GPU only where it reads.

    It looks through two callbacks, one before LAW's and one after it, and takes three times: the whole fit from
    ``on_train_start`` to ``on_train_end``; steps inside a stage (after the warm-up, between the first and the last
    batch of an epoch, not the step that ends the stage); and what callbacks do after a stage's last step.
    """

    def __init__(self, case: Case, device: str, read: Callable[[], float]) -> None:
        self._case = case
        self._device = device
        self._read = read
        self._opened: tuple[int, float] | None = None
        self._after_step = 0.0
        self._window_steps, self._window_time = 0, 0.0
        self.begin = self.end = 0.0
        self.stage_ends: list[float] = []

    def now(self) -> float:
        """The time, with the GPU's work done."""
        if self._device == "cuda":
            torch.cuda.synchronize()
        return self._read()

    @property
    def whole(self) -> float:
        """Seconds of the whole fit."""
        return self.end - self.begin

    @property
    def step(self) -> float:
        """Seconds of a step inside a stage."""
        return self._window_time / self._window_steps

    def before_callbacks(self, steps: int) -> None:
        """After a training step, before LAW's ``on_train_batch_end``."""
        if steps % self._case.stage_steps == 0:
            self._after_step = self.now()

    def after_callbacks(self, steps: int) -> None:
        """After a training step and LAW's ``on_train_batch_end``."""
        case = self._case
        ends_stage = steps % case.stage_steps == 0
        if ends_stage and steps > case.stage_steps:
            self.stage_ends.append(self.now() - self._after_step)
        within_epoch = (steps - 1) % case.epoch_steps
        closes = within_epoch == case.epoch_steps - 1 or (steps + 1) % case.stage_steps == 0
        if self._opened is not None and closes:
            since, begin = self._opened
            self._window_steps += steps - since
            self._window_time += self.now() - begin
            self._opened = None
        # The fork, in the first step after the warm-up, lies outside.
        if within_epoch == 0 and steps > case.stage_steps:
            self._opened = (steps, self.now())


class First(L.Callback):
    """Stands before LAW's callback."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The fit begins."""
        self._clock.begin = self._clock.now()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """A step was taken."""
        self._clock.before_callbacks(trainer.global_step)


class Last(L.Callback):
    """Stands after LAW's callback."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """A step was taken, and LAW's part of it."""
        self._clock.after_callbacks(trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The fit is over."""
        self._clock.end = self._clock.now()


def fit(name: str, case: Case, mode: str, device: str, read: Callable[[], float]) -> Clock:
    """Train once; the times it took."""
    L.seed_everything(0, verbose=False)
    clock = Clock(case, device, read)
    law = make_callback(mode, case)
    trainer = L.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        max_epochs=case.stage_epochs * case.num_stages,
        callbacks=[First(clock), *([] if law is None else [law]), Last(clock)],
        # Logging, checkpoints and bars would be a share of the plain fit's time: without them ratios are higher.
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(make_module(name), *make_loaders(case))
    return clock


def keep_freed_memory() -> None:
    """Tell glibc's allocator not to give memory back between steps; elsewhere this does nothing.

    Otherwise page faults are a large share of a CPU step, and whether a fit has them depends on chance: an allocation
    of the callback at the end of the heap can make the fit faster than the plain one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 32 * 1024**2)  # M_MMAP_THRESHOLD, at its largest
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def measure_time(
    name: str, case: Case, device: str, read: Callable[[], float], repeats: int, bar: tqdm[Any]
) -> dict[str, Any]:
    """Rounds of one fit a mode, each round starting with another mode; ratios are taken within a round."""
    steps = case.stage_steps * case.num_stages
    rounds: list[dict[str, Clock]] = []
    for index in range(repeats + 1):  # the first round warms up and is not counted
        clocks = {}
        brief = replace(case, num_stages=2) if index == 0 else case
        for offset in range(len(MODES)):
            mode = MODES[(index + offset) % len(MODES)]
            bar.set_description(f"{name} {mode}")
            gc.collect()
            clocks[mode] = fit(name, brief, mode, device, read)
            bar.update()
        if index:
            rounds.append(clocks)

    def spread(value: Callable[[dict[str, Clock]], float]) -> dict[str, float]:
        values = [value(clocks) for clocks in rounds]
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    result: dict[str, Any] = {
        "plain_step_ms": spread(lambda clocks: 1e3 * clocks["plain"].whole / steps),
        "apply_aim": APPLY_AIM.get(name),
        "search_aim": case.search_aim,
    }
    for mode in MODES[1:]:
        result[mode] = {
            "fit": spread(partial(_whole_ratio, mode)),
            "step": spread(partial(_step_ratio, mode)),
            "stage_end_ms": spread(partial(_stage_end_ms, mode)),
        }
    return result


def _whole_ratio(mode: str, clocks: dict[str, Clock]) -> float:
    return clocks[mode].whole / clocks["plain"].whole


def _step_ratio(mode: str, clocks: dict[str, Clock]) -> float:
    return clocks[mode].step / clocks["plain"].step


def _stage_end_ms(mode: str, clocks: dict[str, Clock]) -> float:
    taken = statistics.median(clocks[mode].stage_ends) - statistics.median(clocks["plain"].stage_ends)
    if mode == "search":  # the reference's step, taken in the same hook
        taken -= clocks["search"].step - clocks["apply"].step
    return 1e3 * taken


# -- memory ----------------------------------------------------------------------------------------------------


def peak_rss() -> float:
    """Peak resident memory of this process, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux getrusage may answer with the peak of the process that started this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def probe_memory(name: str, case: Case, mode: str, device: str) -> dict[str, float]:
    """Peak memory at the end of one short fit and before it, in MiB; for a process of its own."""
    # Three stages: the warm-up, one with both networks, and its evaluation.
    brief = replace(case, num_stages=3, stage_epochs=1, epoch_steps=min(case.epoch_steps, 5))
    before = 0.0 if device == "cuda" else peak_rss()
    fit(name, brief, mode, device, time.perf_counter)
    peak = torch.cuda.max_memory_allocated() / 1024**2 if device == "cuda" else peak_rss()
    return {"peak": peak, "before": before}


def measure_memory(name: str, args: argparse.Namespace, bar: tqdm[Any]) -> dict[str, dict[str, float]]:
    """Peak memory of each mode, each in a fresh process."""
    memory = {}
    for mode in MODES:
        bar.set_description(f"{name} {mode}, memory")
        command = [sys.executable, __file__, "--probe", name, mode, "--device", args.device]
        command += ["--threads", str(args.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"The memory probe of {name} {mode} failed:\n{done.stderr}")
        memory[mode] = json.loads(done.stdout.splitlines()[-1])
        bar.update()
    return memory


# -- report ----------------------------------------------------------------------------------------------------


def machine(device: str) -> str:
    """What this runs on, without its name."""
    where = f"{torch.get_num_threads()} of {os.cpu_count()} cores ({platform.machine()})"
    if device == "cuda":
        where += f", {torch.cuda.get_device_name()}"
    return f"{where}, torch {torch.__version__}, lightning {L.__version__}"


def _ratio(spread: dict[str, float]) -> str:
    return f"{spread['median']:.3f} [{spread['min']:.3f}, {spread['max']:.3f}]"


def _table(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for index, row in enumerate(rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        if index == 0:
            yield "  ".join("-" * width for width in widths)


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as text."""
    rows = [["case", "mode", "whole fit / plain", "aim", "step in a stage / plain", "stage end", "peak memory"]]
    for name, result in results.items():
        memory = result.get("memory")
        for mode in MODES:
            peak = "" if memory is None else f"{memory[mode]['peak'] - memory[mode]['before']:.0f} MiB"
            if mode == "plain":
                step = f"{result['plain_step_ms']['median']:.2f} ms a step"
                rows.append([name, mode, step, "", "", "", peak])
                continue
            one = result[mode]
            aim = result[f"{mode}_aim"]
            rows.append([
                "", mode, _ratio(one["fit"]), "" if aim is None else f"{aim:.2f}", _ratio(one["step"]),
                f"{one['stage_end_ms']['median']:.1f} ms", peak,
            ])  # fmt: skip
    return "\n".join(_table(rows))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--repeats", type=int, default=5, help="rounds of plain, apply, search (default: 5)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--threads", type=int, default=1,
        help="torch's threads on the CPU; 0: torch's own choice, whose waiting threads make a busy machine's times "
        "meaningless (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--clock", choices=("wall", "cpu"),
        help="cpu: processor time of this process, which other processes disturb less (default: cpu on the CPU, wall "
        "on a GPU)",
    )  # fmt: skip
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all numbers to this file")
    parser.add_argument("--probe", nargs=2, metavar=("CASE", "MODE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error("--repeats must be at least 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    args.clock = args.clock or ("cpu" if args.device == "cpu" else "wall")
    if args.device == "cuda" and args.clock == "cpu":
        parser.error("--clock cpu does not see the GPU's time")
    return args


def main() -> None:
    """Measure and print."""
    args = arguments()
    quiet()
    if args.threads:
        torch.set_num_threads(args.threads)
    cases = CASES if args.device == "cpu" else GPU_CASES
    if args.probe:
        name, mode = args.probe
        print(json.dumps(probe_memory(name, cases[name], mode, args.device)))
        return
    keep_freed_memory()
    read = time.process_time if args.clock == "cpu" else time.perf_counter
    fits = len(MODES) * (args.repeats + 1 + (not args.no_memory))
    results: dict[str, dict[str, Any]] = {}
    with tqdm(total=fits * len(args.cases), unit="fit") as bar:
        for name in args.cases:
            result = measure_time(name, cases[name], args.device, read, args.repeats, bar)
            if not args.no_memory:
                result["memory"] = measure_memory(name, args, bar)
            results[name] = result
            if args.json is not None:  # after every case, so that a run cut short leaves what it has
                report = {"machine": machine(args.device), "clock": args.clock, "repeats": args.repeats}
                args.json.write_text(json.dumps(report | {"cases": results}, indent=2) + "\n")
    print(f"{machine(args.device)}; {args.clock} time, medians of {args.repeats} rounds [min, max]\n")
    print(table(results))


if __name__ == "__main__":
    main()
