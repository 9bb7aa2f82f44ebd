"""Run by test_co_teaching.py as a script: fits on two processes; each saves what came out. co_teaching_run.py OUT."""

import sys
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from law_lightning import CoTeachingCallback
from zoo import BatchNormCNN, fit


def main(out: str) -> None:
    torch.set_num_threads(1)
    results, rank = {}, 0
    folder = Path(out).parent
    for name, forget_rate in (("plain", None), ("zero", 0.0), ("co", 0.4), ("resumed", 0.4)):
        callbacks = []
        if forget_rate is not None:
            callbacks.append(CoTeachingCallback(forget_rate, gradual_epochs=2, num_stages=5))
        if name == "co":
            callbacks.append(ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True))
        module = fit(
            BatchNormCNN,
            callbacks,
            strategy="ddp",
            devices=2,
            accumulate_grad_batches=2,
            ckpt_path=folder / "epoch=2.ckpt" if name == "resumed" else None,
        )
        rank = module.global_rank
        results[name] = {"first": module.state_dict()}
        if forget_rate is not None:
            results[name] |= {"peer": callbacks[0].peer.state_dict(), "history": callbacks[0].history}
    torch.save(results, f"{out}.{rank}")


if __name__ == "__main__":
    main(sys.argv[1])
