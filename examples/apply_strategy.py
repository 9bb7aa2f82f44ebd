"""Search for a strategy, save it, and train with it: ``EPISODES=12 EPOCHS=40 python apply_strategy.py [FILE]``."""

import os
import sys
from statistics import fmean

from law_lightning import LAWCallback, StrategyAgent, StrategySearch
from own_module import OPTIONS, Digits, make_data, test_accuracy

EPISODES = int(os.environ.get("EPISODES", "12"))
SEEDS = range(100, 103)  # none that the search has seen
path = sys.argv[1] if len(sys.argv) > 1 else "strategy.safetensors"

search = StrategySearch(StrategyAgent(), EPISODES, eval_every=4, eval_seeds=2, check_seeds=3, trainer_kwargs=OPTIONS)
result = search.run(Digits, make_data)
result.agent.save(path)
print(f"best strategy of {EPISODES} episodes, saved to {path}: {result.gain}")

plain = fmean(test_accuracy(seed, []) for seed in SEEDS)
law = fmean(test_accuracy(seed, [LAWCallback(path, mode="apply")]) for seed in SEEDS)
print(f"plain Trainer: mean test accuracy {plain:.3f}")
print(f"with strategy: mean test accuracy {law:.3f}")
