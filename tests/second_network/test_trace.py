"""A kept reference: the same rewards bit for bit, and errors where it is of another training."""

from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from law_lightning import LAWCallback, ReplayBuffer, StrategyAgent
from law_lightning.models import MLP, ImageClassifier
from law_lightning.search.episodes import run_episode
from law_lightning.second_network.trace import ReferenceTrace, digest
from search_parts import TRAINER, make_data
from test_promises import assert_same


class Regularised(nn.Sequential):
    """Dropout draws random numbers and BatchNorm keeps buffers."""

    def __init__(self):
        layers = nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10)
        super().__init__(nn.Flatten(), *layers)


def make_module(lr=0.1):
    return ImageClassifier(Regularised(), lr=lr)


class RandomValidation(ImageClassifier):
    """Draws random numbers in validation_step, too."""

    def validation_step(self, batch, batch_idx):
        x, target = batch
        super().validation_step((x + torch.randn_like(x), target), batch_idx)


def random_validation():
    return RandomValidation(Regularised())


def agent(seed):
    torch.manual_seed(seed)
    found = StrategyAgent(num_stages=4, warmup_stages=1, epochs=1, seed=seed)
    with torch.no_grad():  # far from weights of one
        for parameter in found.actor.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return found


def fit(trace, strategy=0, seed=7, module=make_module, options=None, **kwargs):
    law = LAWCallback(agent(strategy), keep="target", trace=trace, buffer=ReplayBuffer(), **kwargs)
    run_episode(seed, module, make_data(), TRAINER | (options or {}), law)
    return law


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (make_module, {}),
        (make_module, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}),
        (make_module, {"precision": "bf16-mixed"}),
        (random_validation, {}),
    ],
)
@pytest.mark.parametrize("strategy", [0, 1])
def test_rewards_are_those_without_it(module, options, strategy):
    """Also for another strategy than the one whose fit left the trace."""
    trace = ReferenceTrace()
    fit(trace, 0, module=module, options=options)
    assert trace.complete
    kept = ReferenceTrace.from_state(trace.state_dict())
    with_trace = fit(kept, strategy, module=module, options=options)
    without = fit(None, strategy, module=module, options=options)
    assert_same(with_trace.history, without.history)
    assert_same(with_trace.buffer.state_dict(), without.buffer.state_dict())
    assert_same(with_trace.agent.full_state(), without.agent.full_state())
    assert any(record["loss_gap"] for record in without.history)
    assert with_trace.reference is None
    assert without.reference is not None


def test_the_reference_takes_no_step():
    trace, steps = ReferenceTrace(), []
    fit(trace)

    class Counted(ImageClassifier):
        def training_step(self, batch, batch_idx):
            steps.append(1)
            return super().training_step(batch, batch_idx)

    fit(trace, module=lambda: Counted(Regularised()))
    assert len(steps) == 4 * 2  # epochs times batches, of one network


@pytest.mark.parametrize("change", [{"seed": 8}, {"module": partial(make_module, lr=0.2)},
                                    {"options": {"max_epochs": 8}}])  # fmt: skip
def test_a_trace_of_another_training_is_refused(change):
    trace = ReferenceTrace()
    fit(trace)
    with pytest.raises(MisconfigurationException, match=r"kept reference is of another training.*seed_pool=0"):
        fit(trace, **change)


def test_a_rate_that_follows_the_target_is_refused():
    class Plateau(ImageClassifier):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}

    with pytest.raises(MisconfigurationException, match="ReduceLROnPlateau"):
        fit(ReferenceTrace(), module=lambda: Plateau(Regularised()))


def test_a_training_that_stops_early_leaves_no_trace():
    import lightning as L

    class Stop(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch >= 2

    trace = ReferenceTrace()
    fit(trace, options={"callbacks": [Stop()]})
    assert not trace.complete
    assert trace.accuracies


def test_a_trace_has_no_network_to_give_back():
    for arguments in ({"keep": "best"}, {"keep": "target", "mode": "apply", "agent": StrategyAgent()}):
        with pytest.raises(ValueError, match="trace keeps a reference's course"):
            LAWCallback(trace=ReferenceTrace(), **arguments)


def test_steps_without_a_loss_are_kept():
    trace = ReferenceTrace("x", [torch.tensor(1.0), None, torch.tensor(2.0)], {1: 0.5}, complete=True)
    again = ReferenceTrace.from_state(trace.state_dict())
    assert again == trace
    assert ReferenceTrace.from_state(ReferenceTrace("x").state_dict()).losses == []


def test_digests_tell_values_apart():
    def closure(number):
        return lambda: number

    values = [
        0, 0.0, "0", None, True, [], (), {}, [0], (0,), {0: 1}, {1: 0}, {0, 1}, [[0], 1], [0, [1]], torch.zeros(2),
        torch.zeros(2, 1), torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.bfloat16), np.zeros(2),
        torch.tensor([0.0, -0.0]), closure(1), closure(2), partial(int, "1"), partial(int, "2"), int, MLP, "", b"",
    ]  # fmt: skip
    digests = [digest(value) for value in values]
    assert len(set(digests)) == len(values)
    assert digests == [digest(value) for value in values]


def test_digests_of_objects_look_inside():
    class Thing:
        def __init__(self, value):
            self.value, self.me = value, self

    assert digest(Thing(1)) == digest(Thing(1))
    assert digest(Thing(1)) != digest(Thing(2))
