"""LightningCLI builds the callbacks, from YAML and on the command line."""

import sys

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI

import law_lightning
from law_lightning import WeightingCallback
from law_lightning.weighting import ClassBalancedWeighting, FocalWeighting, SelfPacedWeighting
from zoo import DropoutMLP

pytest.importorskip("jsonargparse")

CALLBACK = "--trainer.callbacks"
WEIGHTING = f"{CALLBACK}.weighting"
QUIET = ["--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.enable_checkpointing=false"]


@pytest.fixture
def first_callback(monkeypatch):
    """The callback that a program with these arguments gives its Trainer."""

    def build(*arguments):
        monkeypatch.setattr(sys, "argv", ["program", *QUIET, *arguments])
        cli = LightningCLI(DropoutMLP, run=False, save_config_callback=None)
        return next(each for each in cli.trainer.callbacks if isinstance(each, WeightingCallback))

    return build


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("law_lightning.FocalWeighting", {"gamma": 1.5}, FocalWeighting),
        ("law_lightning.weighting.ClassBalancedWeighting", {"class_counts": [3, 4]}, ClassBalancedWeighting),
        ("SelfPacedWeighting", {"kind": "linear"}, SelfPacedWeighting),  # a short name is enough
    ],
)
def test_a_weighting_with_its_options(first_callback, tmp_path, name, options, kind):
    on_line = [f"{CALLBACK}=law_lightning.WeightingCallback", f"{CALLBACK}.num_stages=5", f"{WEIGHTING}={name}"]
    on_line += [f"{WEIGHTING}.{key}={value}" for key, value in options.items()]
    weighting = {"class_path": name, "init_args": options}
    init = {"num_stages": 5, "weighting": weighting}
    trainer = {"callbacks": [{"class_path": "law_lightning.WeightingCallback", "init_args": init}]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
    for arguments in (on_line, [f"--config={tmp_path / 'config.yaml'}"]):
        callback = first_callback(*arguments)
        assert (type(callback.weighting), callback.num_stages) == (kind, 5)
        made = kind(**options)
        assert repr(vars(callback.weighting)) == repr(vars(made))


def test_a_function(first_callback, monkeypatch, tmp_path):
    (tmp_path / "my_weighting.py").write_text("def ones(samples, phase):\n    return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    callback = first_callback(f"{CALLBACK}=law_lightning.WeightingCallback", f"{WEIGHTING}=my_weighting.ones")
    assert callback.weighting.__name__ == "ones"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LAWCallback", ["mode=apply"]),  # the rule general
        ("LAWCallback", ["mode=apply", "agent=digits_noise40"]),
        ("LAWCallback", ["agent=law_lightning.StrategyAgent", "agent.num_stages=4", "keep=target"]),
        ("CoTeachingCallback", ["forget_rate=0.3"]),
        ("L2RWCallback", ["num_stages=4"]),
        ("MetaWeightNetCallback", ["lr=0.01"]),
    ],
)
def test_the_other_callbacks(first_callback, name, options):
    callback = first_callback(f"{CALLBACK}=law_lightning.{name}", *(f"{CALLBACK}.{option}" for option in options))
    assert type(callback) is getattr(law_lightning, name)
