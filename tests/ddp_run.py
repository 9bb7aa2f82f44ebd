"""Run by test_ddp.py as a script: one fit on two processes; the first saves what came out.

python ddp_run.py plain|search|zero|apply OUT [STRATEGY [CHECKPOINT]]
"""

import sys
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from law_lightning import LAWCallback, StrategyAgent
from zoo import BatchNormCNN, fit


def main(mode: str, out: str, strategy: str = "ddp", ckpt_path: str | None = None) -> None:
    torch.set_num_threads(1)
    agent = StrategyAgent(num_stages=5, warmup_stages=1, episode_noise=2.0)
    callbacks = {
        "plain": [],
        "search": [LAWCallback(agent, keep="target")],
        "zero": [LAWCallback(agent, keep="target", explore=False, learn=False)],
        "apply": [LAWCallback(agent, mode="apply")],
    }[mode]
    # 92 training and 70 validation samples: both are padded, as neither divides by two processes and the batch size.
    saving = (
        [ModelCheckpoint(Path(out).parent, "{step}", every_n_train_steps=1, save_top_k=-1)] if mode == "search" else []
    )
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
    torch.save(result, f"{out}.{module.global_rank}")


if __name__ == "__main__":
    main(*sys.argv[1:])
