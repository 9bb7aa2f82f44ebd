"""Run by test_methods.py as a script: every method on two processes, which save what came out.

python methods_run.py OUT
"""

import sys

import torch

from methods import METHODS
from zoo import BatchNormCNN, fit


def main(out: str) -> None:
    torch.set_num_threads(1)
    options = {"strategy": "ddp", "devices": 2, "accumulate_grad_batches": 2}
    found = {"plain": fit(BatchNormCNN, [], **options).state_dict()}
    for name, make in METHODS.items():
        callback = make()
        module = fit(BatchNormCNN, [callback], **options)
        found[name] = module.state_dict()
        found[f"{name} history"] = callback.history
    torch.save(found, f"{out}.{module.global_rank}")


if __name__ == "__main__":
    main(*sys.argv[1:])
