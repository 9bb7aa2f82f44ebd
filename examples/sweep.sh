#!/bin/sh
# One search for each noise rate, each in a folder of its own: sweep.sh [FURTHER OVERRIDES...]
# With W&B, one run each:  sweep.sh logger=wandb logger.group=noise   (offline: logger.offline=true)
set -eu
exec law-search -m experiment=digits_noise40 corruption.rate=0.2,0.4,0.6 run_dir=runs/sweep "$@"
