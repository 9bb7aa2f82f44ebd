"""The methods as the tests set them up: one table for all of them, LAW included."""

import torch

from law_lightning import LAWCallback, StrategyAgent, WeightingCallback
from law_lightning.callbacks import CoTeachingCallback, L2RWCallback, MetaWeightNetCallback
from law_lightning.weighting import (
    ClassBalancedWeighting,
    FocalWeighting,
    GCEWeighting,
    MentorNetWeighting,
    MentorNetwork,
    SelfPacedWeighting,
)
from zoo import CLASSES

STAGES = {"num_stages": 5}


def bold_agent(**options):
    """A strategy whose theta is far from zero: its actor's last layer is stirred."""
    agent = StrategyAgent(warmup_stages=1, **STAGES, **options)
    last = agent.actor.network[-1]
    last.weight.data += 0.3
    last.bias.data -= 0.2
    return agent


def a_mentor():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MentorNetwork(CLASSES)


METHODS = {
    "law_search": lambda: LAWCallback(StrategyAgent(warmup_stages=1, episode_noise=2.0, **STAGES), keep="target"),
    "law_general": lambda: LAWCallback(keep="target", warmup_stages=1, **STAGES),
    "law_apply": lambda: LAWCallback(bold_agent(), mode="apply"),
    "focal": lambda: WeightingCallback(FocalWeighting(2.0), **STAGES),
    "gce": lambda: WeightingCallback(GCEWeighting(0.7), **STAGES),
    "class_balanced": lambda: WeightingCallback(ClassBalancedWeighting(0.9, [9, 30, 40, 5]), **STAGES),
    "self_paced": lambda: WeightingCallback(SelfPacedWeighting(), warmup_stages=1, **STAGES),
    "self_paced_linear": lambda: WeightingCallback(SelfPacedWeighting("linear"), **STAGES),
    "mentornet": lambda: WeightingCallback(MentorNetWeighting(dropout_until=0.5), **STAGES),
    "mentornet_dd": lambda: WeightingCallback(MentorNetWeighting(a_mentor(), burn_in=0.3), **STAGES),
    "co_teaching": lambda: CoTeachingCallback(0.3, gradual_epochs=2, **STAGES),
    "l2rw": lambda: L2RWCallback(warmup_stages=1, **STAGES),
    "meta_weight_net": lambda: MetaWeightNetCallback(lr=0.02, **STAGES),
}
