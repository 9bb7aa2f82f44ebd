import lightning as L
import pytest

from law_lightning import StrategyAgent
from law_lightning.cli.compare import main
from law_lightning.cli.trainings import METHODS, Training
from law_lightning.models import ImageClassifier
from law_lightning.report.records import read_outcomes


class BestByHand(L.Callback):
    """Keeps the weights of the epoch with the best validation accuracy, the first of equals."""

    def __init__(self):
        self.best, self.epoch, self.weights = -1.0, -1, None

    def on_validation_end(self, trainer, module):
        accuracy = float(trainer.callback_metrics["val/acc"])
        if not trainer.sanity_checking and accuracy > self.best:
            self.best, self.epoch = accuracy, trainer.current_epoch
            self.weights = {key: value.clone() for key, value in module.state_dict().items()}


@pytest.fixture
def by_hand(train_by_hand):
    """Plain training and its two test accuracies, without the command."""

    def accuracies(seed):
        best = BestByHand()
        trainer, module, data = train_by_hand(seed, best)
        last = trainer.test(module, datamodule=data, verbose=False)[0]["test/acc"]
        module.load_state_dict(best.weights)
        return last, trainer.test(module, datamodule=data, verbose=False)[0]["test/acc"], best.epoch

    return accuracies


def test_comparison_from_end_to_end(command, small, strategy, tmp_path, by_hand, rows):
    out = command(main, *small, f"strategy={strategy}", "seeds=2", "run_dir=run")
    run = tmp_path / "run"
    outcomes = read_outcomes(run / "compare.csv")
    assert [(o.seed, o.method) for o in outcomes] == [(1000, "base"), (1000, "law"), (1001, "base"), (1001, "law")]
    for outcome in outcomes[::2]:
        assert (outcome.acc_last, outcome.acc_best, outcome.best_epoch) == by_hand(outcome.seed)
    assert outcomes[0].acc_last != outcomes[1].acc_last
    summary = rows(run / "summary.csv")
    assert list(summary[0]) == ["method", "epoch", "seeds", "mean", "sd", "difference", "low", "high"]
    assert summary[0]["difference"] == ""
    gain = sum(law.acc_last - base.acc_last for base, law in zip(outcomes[::2], outcomes[1::2], strict=True)) / 2
    assert float(summary[1]["difference"]) == pytest.approx(gain)
    assert (run / "summary.txt").read_text() in out
    assert (run / "compare.png").is_file()


def test_finished_trainings_are_not_repeated(command, small, strategy, tmp_path, monkeypatch):
    arguments = [*small, f"strategy={strategy}", "run_dir=run"]
    command(main, *arguments, "seeds=3")
    file = tmp_path / "run" / "compare.csv"
    whole = read_outcomes(file)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:4]))  # as if it had been stopped in the second seed

    ran = []
    run = Training.run
    monkeypatch.setattr(Training, "run", lambda self, *rest: ran.append((self.method, self.seed)) or run(self, *rest))
    command(main, *arguments, "seeds=3")
    assert ran == [("law", 1001), ("base", 1002), ("law", 1002)]
    assert read_outcomes(file) == whole
    command(main, *arguments, "seeds=2")
    assert len(ran) == 3
    assert "  2  " in (tmp_path / "run" / "summary.txt").read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_all_methods_side_by_side(command, small, strategy, tmp_path, by_hand, workers):
    stages = [f"+method.{name}.num_stages=3" for name in METHODS if name not in ("base", "law")]
    options = [*stages, f"methods=[{','.join(METHODS)}]", "seeds=2", "run_dir=run", f"workers={workers}"]
    out = command(main, *small, f"strategy={strategy}", *options)
    outcomes = read_outcomes(tmp_path / "run" / "compare.csv")
    assert {(o.method, o.seed) for o in outcomes} == {(name, seed) for name in METHODS for seed in (1000, 1001)}
    for outcome in outcomes:
        if outcome.method == "base":
            assert (outcome.acc_last, outcome.acc_best, outcome.best_epoch) == by_hand(outcome.seed)
    assert "clean validation data (l2rw, meta_weight_net)" in out
    assert "the rate of wrong labels (co_teaching)" in out


def test_without_law_no_strategy_is_needed(command, small, tmp_path):
    command(main, *small, "seeds=2", "run_dir=run", "methods=[base,focal]", "+method.focal.num_stages=3")
    assert (tmp_path / "run" / "compare.csv").is_file()


def test_another_strategy_or_setting_does_not_go_on(command, small, strategy):
    command(main, *small, f"strategy={strategy}", "seeds=2", "run_dir=run")
    StrategyAgent(num_stages=3, seed=5).save("other.pt")
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
