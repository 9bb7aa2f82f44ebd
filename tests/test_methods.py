"""Every method on the matrix of modules: it trains, it resumes bit for bit, and it leaves nothing behind."""

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from methods import METHODS
from zoo import (
    MODULES,
    TRAINERS,
    AdamCosine,
    BatchNormCNN,
    Mixup,
    TwoHeads,
    assert_identical,
    differ,
    fit,
    loaders,
    make_trainer,
)

MATRIX = [(module, "default") for module in MODULES]
MATRIX += [(BatchNormCNN, name) for name in TRAINERS if name != "default"]
#: Whose class counts are of four classes.
NOT_OF_TWO_HEADS = ("class_balanced",)
CASES = [
    pytest.param(name, module, trainer, id=f"{name}-{module.__name__}-{trainer}")
    for name in METHODS
    for module, trainer in MATRIX
    if not (module is TwoHeads and name in NOT_OF_TWO_HEADS)
]

_plain: dict = {}


def plain(module, trainer):
    if (module, trainer) not in _plain:
        _plain[module, trainer] = fit(module, **TRAINERS[trainer]).state_dict()
    return _plain[module, trainer]


@pytest.mark.parametrize(("name", "module", "trainer"), CASES)
def test_it_trains_otherwise_than_plain_training_and_leaves_nothing_behind(name, module, trainer):
    callback = METHODS[name]()
    before = set(vars(module()))
    trained = fit(module, [callback], **TRAINERS[trainer])
    assert [record["stage"] for record in callback.history] == [0, 1, 2, 3, 4]
    assert list(trained.state_dict()) == list(plain(module, trainer))
    assert differ(trained.state_dict(), plain(module, trainer))
    left = set(vars(trained)) - before
    assert not {name for name in left if "law" in name or name == "training_step"}
    assert all(value == value for record in callback.history for value in [record["weight_mean"]])


@pytest.mark.parametrize("step", [2, 9])
@pytest.mark.parametrize("module", [BatchNormCNN, AdamCosine, Mixup])
@pytest.mark.parametrize("name", METHODS)
def test_a_stop_loses_nothing(name, module, step, tmp_path):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = METHODS[name]()
    expected = fit(module, [whole, saving]).state_dict()
    again = METHODS[name]()
    resumed = module()
    resumed_trainer = make_trainer([again, ModelCheckpoint(tmp_path / "again")])
    resumed_trainer.fit(resumed, *loaders(), ckpt_path=tmp_path / f"step={step}.ckpt", weights_only=True)
    assert_identical(resumed.state_dict(), expected)
    assert again.history == whole.history


@pytest.mark.parametrize("name", METHODS)
def test_a_callback_can_be_used_for_another_fit(name):
    once, twice = METHODS[name](), METHODS[name]()
    fit(AdamCosine, [twice])
    if name == "law_search":
        return  # its agent goes on learning
    assert_identical(fit(AdamCosine, [twice]).state_dict(), fit(AdamCosine, [once]).state_dict())
