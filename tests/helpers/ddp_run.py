"""Run by test_ddp.py as a script: fits on two processes, each of which saves what came out.

python ddp_run.py FIT[,FIT...] FOLDER [STRATEGY [CHECKPOINT]]
"""

import sys

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from law_lightning import CoTeachingCallback, LAWCallback, StrategyAgent
from methods import METHODS
from zoo import BatchNormCNN, fit


def new_agent(**options):
    return StrategyAgent(num_stages=5, warmup_stages=1, episode_noise=2.0, **options)


FITS = METHODS | {
    "plain": lambda: None,
    "zero": lambda: LAWCallback(new_agent(), keep="target", explore=False, learn=False),
    "zero_apply": lambda: LAWCallback(new_agent(), mode="apply"),
    "zero_co_teaching": lambda: CoTeachingCallback(0.0, num_stages=5),
}


def main(names: str, folder: str, strategy: str = "ddp", ckpt_path: str | None = None) -> None:
    torch.set_num_threads(1)
    for name in names.split(","):
        callback = FITS[name]()
        saving = ModelCheckpoint(folder, f"{name}-{{step}}", every_n_train_steps=1, save_top_k=-1)
        callbacks = [each for each in (callback, saving) if each is not None]
        # 92 training and 70 validation samples: both are padded, as neither divides by processes and batch size.
        options = {"strategy": strategy, "devices": 2, "accumulate_grad_batches": 2, "ckpt_path": ckpt_path}
        module = fit(BatchNormCNN, callbacks, **options)
        result = {"module": module.state_dict()}
        if callback is not None and strategy == "ddp":
            second = getattr(callback, "reference", getattr(callback, "peer", None))
            result |= {"history": callback.history, "second": None if second is None else second.state_dict()}
            result |= {"samples": callback.dynamics.table()}
        if isinstance(callback, LAWCallback) and strategy == "ddp":
            result |= {"agent": callback.agent.full_state(), "buffer": callback.buffer.state_dict()}
        torch.save(result, f"{folder}/{name}.{module.global_rank}")


if __name__ == "__main__":
    main(*sys.argv[1:])
