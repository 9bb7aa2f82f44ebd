"""Run by test_ddp.py as a script: fits on two processes, each of which saves what came out.

python ddp_run.py MODE[,MODE...] FOLDER [STRATEGY [CHECKPOINT]]    # plain, search, zero, apply
"""

import sys
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from law_lightning import LAWCallback, StrategyAgent
from zoo import BatchNormCNN, fit


def main(modes: str, folder: str, strategy: str = "ddp", ckpt_path: str | None = None) -> None:
    torch.set_num_threads(1)
    for mode in modes.split(","):
        run(mode, Path(folder), strategy, ckpt_path)


def run(mode: str, folder: Path, strategy: str, ckpt_path: str | None) -> None:
    agent = StrategyAgent(num_stages=5, warmup_stages=1, episode_noise=2.0)
    callbacks = {
        "plain": [],
        "search": [LAWCallback(agent, keep="target")],
        "zero": [LAWCallback(agent, keep="target", explore=False, learn=False)],
        "apply": [LAWCallback(agent, mode="apply")],
    }[mode]
    # 92 training and 70 validation samples: both are padded, as neither divides by two processes and the batch size.
    saving = [ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)] if mode == "search" else []
    options = {"strategy": strategy, "devices": 2, "accumulate_grad_batches": 2, "ckpt_path": ckpt_path}
    module = fit(BatchNormCNN, [*callbacks, *saving], **options)
    result = {"module": module.state_dict()}
    if callbacks and strategy == "ddp":
        law = callbacks[0]
        result |= {
            "reference": None if law.reference is None else law.reference.state_dict(),
            "history": law.history,
            "agent": law.agent.full_state(),
            "buffer": law.buffer.state_dict(),
        }
    torch.save(result, folder / f"{mode}.{module.global_rank}")


if __name__ == "__main__":
    main(*sys.argv[1:])
