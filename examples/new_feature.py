"""A sample feature of your own, which a search learns to weigh: ``EPISODES=12 EPOCHS=40 python new_feature.py``."""

import os
from statistics import fmean

from law_lightning import LAWCallback, StrategyAgent, StrategySearch
from law_lightning import functional as LF
from own_module import OPTIONS, Digits, make_data, test_accuracy


def rival(loss, logits, target):
    """Probability of the likeliest class other than the label, [B]: near one where the network is sure of another."""
    return logits.softmax(dim=1).scatter(1, target.unsqueeze(1), 0.0).amax(dim=1)


LF.KNOWN_FEATURES["rival"] = rival

if __name__ == "__main__":
    agent, episodes = StrategyAgent(features=["rival", "entropy"]), int(os.environ.get("EPISODES", "12"))
    search = StrategySearch(agent, episodes, eval_every=4, eval_seeds=2, check_seeds=3, trainer_kwargs=OPTIONS)
    found = search.run(Digits, make_data)
    print(f"found in {episodes} episodes: {found.gain}")
    seeds = range(100, 103)  # none that the search has seen
    print(f"plain Trainer: mean test accuracy {fmean(test_accuracy(seed, []) for seed in seeds):.3f}")
    law = [test_accuracy(seed, [LAWCallback(found.agent, mode="apply")]) for seed in seeds]
    print(f"with strategy: mean test accuracy {fmean(law):.3f}")
