"""One search and its evaluation: a job, done in a process of its own or among others."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from rivals.lab import Lab, final_seeds
from rivals.methods import METHODS
from rivals.rows import Key, Row
from rivals.training import StepLedger, evaluate
from tasks import Task


@dataclass(frozen=True)
class Job:
    """What to search and how to judge it.

    Attributes:
        task: the task.
        method: a key of METHODS.
        search_seed: number of the search.
        budget: trainings that it may cost.
        eval_seeds: fresh seeds to judge it on.
        ledgers: folder in which steps are counted while it runs, for the progress bar.
    """

    task: Task
    method: str
    search_seed: int
    budget: int
    eval_seeds: int
    ledgers: Path

    @property
    def key(self) -> Key:
        """That of the job's row."""
        return self.task.name, self.method, self.search_seed, self.budget, self.eval_seeds, self.task.draw


def run_job(job: Job) -> Row:
    """Search, then train on the fresh seeds."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=job.ledgers) as name:
        folder = Path(name)
        lab = Lab(job.task, job.search_seed, job.budget, folder)
        began = time.perf_counter()
        found = METHODS[job.method](lab)
        searched = time.perf_counter()
        tally = StepLedger(folder / "evaluation.txt")  # counted for the bar alone
        outcomes = [
            evaluate(job.task, lab.datamodule, seed, [tally, *found.callbacks(seed)])
            for seed in final_seeds(job.eval_seeds, job.task.draw)
        ]
        return {
            "task": job.task.name,
            "method": job.method,
            "search_seed": job.search_seed,
            "budget": job.budget,
            "eval_seeds": job.eval_seeds,
            "draw": job.task.draw,
            "steps": lab.steps,
            "steps_per_training": lab.steps_per_training,
            "search_s": round(searched - began, 1),
            "eval_s": round(time.perf_counter() - searched, 1),
            **{key: [outcome[key] for outcome in outcomes] for key in outcomes[0]},
            **found.details,
        }
