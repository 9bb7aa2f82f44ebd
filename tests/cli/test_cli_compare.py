import copy

import lightning as L
import pytest

from law_lightning import StrategyAgent
from law_lightning.cli.compare import main
from law_lightning.cli.trainings import METHODS, Training
from law_lightning.report.records import read_outcomes
from run_folders import rows


class Epochs(L.Callback):
    """Validation accuracy, number and weights of each epoch."""

    def __init__(self):
        self.seen = []

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            accuracy = float(trainer.callback_metrics["val/acc"])
            self.seen.append((accuracy, trainer.current_epoch, copy.deepcopy(module.state_dict())))


@pytest.fixture
def by_hand(train_by_hand):
    """Plain training without the command: its two test accuracies and its best epoch."""

    def accuracies(seed):
        epochs = Epochs()
        trainer, module, data = train_by_hand(seed, epochs)
        last = trainer.test(module, datamodule=data, verbose=False)[0]["test/acc"]
        _, epoch, weights = max(epochs.seen, key=lambda each: each[0])  # the first of equals
        module.load_state_dict(weights)
        return last, trainer.test(module, datamodule=data, verbose=False)[0]["test/acc"], epoch

    return accuracies


def test_comparison_from_end_to_end(command, small, strategy, tmp_path, by_hand):
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
    StrategyAgent(num_stages=3, seed=5).save("other.pt")
    with pytest.raises(SystemExit, match="strategy_sha256 was"):
        command(main, *small, "strategy=other.pt", "run_dir=run", "seeds=2")


def test_all_methods_side_by_side(command, small, tmp_path, by_hand):
    methods = [method for method in METHODS if method != "law"]  # so that no strategy is needed
    stages = [f"+method.{name}.num_stages=3" for name in methods[1:]]
    out = command(main, *small, *stages, f"methods=[{','.join(methods)}]", "seeds=2", "run_dir=run", "workers=2")
    outcomes = read_outcomes(tmp_path / "run" / "compare.csv")
    assert {(o.method, o.seed) for o in outcomes} == {(name, seed) for name in methods for seed in (1000, 1001)}
    for outcome in outcomes:
        if outcome.method == "base":
            assert (outcome.acc_last, outcome.acc_best, outcome.best_epoch) == by_hand(outcome.seed)
    assert "clean validation data (l2rw, meta_weight_net)" in out
    assert "the rate of wrong labels (co_teaching)" in out
