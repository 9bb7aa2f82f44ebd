import csv

import lightning as L
import pytest

from law_lightning.cli.compare import main
from law_lightning.data import DigitsDataModule
from law_lightning.models import MLP, ImageClassifier
from law_lightning.report.records import read_outcomes, write_outcomes
from zoo import make_trainer


class BestByHand(L.Callback):
    """Keeps the weights of the epoch with the best validation accuracy, the first of equals."""

    def __init__(self):
        self.best, self.epoch, self.weights = -1.0, -1, None

    def on_validation_end(self, trainer, module):
        accuracy = float(trainer.callback_metrics["val/acc"])
        if not trainer.sanity_checking and accuracy > self.best:
            self.best, self.epoch = accuracy, trainer.current_epoch
            self.weights = {key: value.clone() for key, value in module.state_dict().items()}


def by_hand(seed):
    """Plain training and its two test accuracies, without the command."""
    L.seed_everything(seed)
    classifier = ImageClassifier(MLP((1, 8, 8), 10, hidden=(16,)))
    data, best = DigitsDataModule(train_size=128, val_size=100), BestByHand()
    trainer = make_trainer([best], max_epochs=3)
    trainer.fit(classifier, datamodule=data)
    last = trainer.test(classifier, datamodule=data, verbose=False)[0]["test/acc"]
    classifier.load_state_dict(best.weights)
    return last, trainer.test(classifier, datamodule=data, verbose=False)[0]["test/acc"], best.epoch


def test_comparison_from_end_to_end(command, small, strategy, tmp_path):
    out = command(main, *small, f"strategy={strategy}", "seeds=2", "run_dir=run")
    run = tmp_path / "run"
    outcomes = read_outcomes(run / "compare.csv")
    assert [(o.seed, o.method) for o in outcomes] == [
        (1000, "base"),
        (1000, "law"),
        (1001, "base"),
        (1001, "law"),
    ]
    for outcome in outcomes[::2]:
        assert (outcome.acc_last, outcome.acc_best, outcome.best_epoch) == by_hand(outcome.seed)
    assert outcomes[0].acc_last != outcomes[1].acc_last
    with (run / "summary.csv").open(newline="") as file:
        summary = list(csv.DictReader(file))
    gain = sum(law.acc_last - base.acc_last for base, law in zip(outcomes[::2], outcomes[1::2], strict=True)) / 2
    assert float(summary[1]["difference"]) == pytest.approx(gain)
    assert (run / "summary.txt").read_text() in out
    assert (run / "compare.png").is_file()


def test_finished_trainings_are_not_repeated(command, small, strategy, tmp_path, monkeypatch):
    from law_lightning.cli import jobs

    arguments = [*small, f"strategy={strategy}", "run_dir=run"]
    command(main, *arguments, "seeds=3")
    file = tmp_path / "run" / "compare.csv"
    whole = read_outcomes(file)
    write_outcomes(whole[:3], file)  # as if it had been stopped in the second seed

    ran = []
    train_once = jobs.train_once
    monkeypatch.setattr(
        jobs,
        "train_once",
        lambda method, seed, *rest: ran.append((method, seed)) or train_once(method, seed, *rest),
    )
    command(main, *arguments, "seeds=3")
    assert ran == [("law", 1001), ("base", 1002), ("law", 1002)]
    assert read_outcomes(file) == whole
    command(main, *arguments, "seeds=2")
    assert len(ran) == 3
    assert "  2  " in (tmp_path / "run" / "summary.txt").read_text()


METHODS = (
    "base", "focal", "class_balanced", "self_paced", "mentornet", "co_teaching", "l2rw", "meta_weight_net", "law",
)  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
def test_all_methods_side_by_side(command, small, strategy, tmp_path, workers):
    stages = [f"+method.{name}.num_stages=3" for name in METHODS if name not in ("base", "law")]
    methods = f"methods=[{','.join(METHODS)}]"
    out = command(
        main, *small, f"strategy={strategy}", "seeds=2", "run_dir=run", methods, *stages, f"workers={workers}",
        "trainer.accelerator=cpu",
    )  # fmt: skip
    outcomes = read_outcomes(tmp_path / "run" / "compare.csv")
    assert {(o.method, o.seed) for o in outcomes} == {(name, seed) for name in METHODS for seed in (1000, 1001)}
    base = {o.seed: o for o in outcomes if o.method == "base"}
    for seed, outcome in base.items():
        assert (outcome.acc_last, outcome.acc_best, outcome.best_epoch) == by_hand(seed)
    assert "clean validation data (l2rw, meta_weight_net)" in out
    assert "the rate of wrong labels (co_teaching)" in out


def test_without_law_no_strategy_is_needed(command, small, tmp_path):
    command(main, *small, "seeds=2", "run_dir=run", "methods=[base,focal]", "+method.focal.num_stages=3")
    assert (tmp_path / "run" / "compare.csv").is_file()


def test_another_strategy_or_setting_does_not_go_on(command, small, strategy, tmp_path):
    from law_lightning import StrategyAgent

    command(main, *small, f"strategy={strategy}", "seeds=2", "run_dir=run")
    StrategyAgent(num_stages=3, seed=5).save(tmp_path / "other.pt")
    with pytest.raises(SystemExit, match="strategy_sha256 was"):
        command(main, *small, "strategy=other.pt", "seeds=2", "run_dir=run")
    with pytest.raises(SystemExit, match=r"model\.lr was 0\.1, now 0\.2"):
        command(main, *small, f"strategy={strategy}", "seeds=2", "run_dir=run", "model.lr=0.2")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["strategy=null"], r"No strategy is given: add strategy=PATH"),
        (["strategy=none.pt"], r"No strategy file at .*none\.pt"),
        (["seeds=1"], "seeds=1: an interval needs at least 2 seeds"),
        (["first_seed=-1"], "first_seed=-1: seeds are whole numbers from 0 on"),
        (["methods=[base,fokal]"], r"methods=\['base', 'fokal'\]: there is no method 'fokal'"),
        (["methods=[base,focal]", "method.focal.gamma=-1"], "gamma must be at least 0"),
        (["methods=[base,co_teaching]", "method.co_teaching.forget_rate=1"], r"forget_rate must be in \[0, 1\)"),
        (["workers=0"], "workers=0: at least one"),
        (["workers=2", "trainer.devices=2"], "workers=2 runs trainings of one device side by side"),
        (["methods=[base,base]"], "each only once"),
        (["methods=[]"], "at least one"),
        (["corruption.rate=-0.1"], r"-0\.1.*\[0, 1\]"),
        (["confidence=95"], r"confidence is 95.*\(0, 1\)"),
    ],
)
def test_bad_input_is_one_line_before_any_training(command, small, strategy, tmp_path, overrides, message):
    with pytest.raises(SystemExit, match=f"^law-compare: .*{message}"):
        command(main, *small, f"strategy={strategy}", "run_dir=run", *overrides)
    assert not (tmp_path / "run" / "compare.csv").exists()


def test_a_module_without_test_accuracy_is_named(command, small, strategy, monkeypatch):
    monkeypatch.setattr(ImageClassifier, "test_step", lambda self, batch, index: self.log("test/loss", 0.0))
    with pytest.raises(SystemExit, match=r"test_step logs \['test/loss'\], but the commands need 'test/acc'"):
        command(main, *small, f"strategy={strategy}", "seeds=2", "run_dir=run")
