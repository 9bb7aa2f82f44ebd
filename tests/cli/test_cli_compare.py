import copy
import time
from functools import partial

import lightning as L
import pytest

from law_lightning import StrategyAgent
from law_lightning.cli.compare import main
from law_lightning.cli.trainings import METHODS, Training, outcomes_of
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


def test_comparison_from_end_to_end(command, small, strategy, tmp_path, train_by_hand, monkeypatch):
    arguments = [*small, f"strategy={strategy}", "run_dir=run"]
    out = command(main, *arguments, "seeds=2")
    run, file = tmp_path / "run", tmp_path / "run" / "compare.csv"
    outcomes = read_outcomes(file)
    assert [(o.seed, o.method) for o in outcomes] == [(1000, "base"), (1000, "law"), (1001, "base"), (1001, "law")]
    for outcome in outcomes[::2]:
        epochs = Epochs()
        trainer, module, data = train_by_hand(outcome.seed, epochs)
        _, best, weights = max(epochs.seen, key=lambda each: each[0])  # the first of equals
        assert (outcome.acc_last, outcome.best_epoch) == (trainer.test(module, data)[0]["test/acc"], best)
        module.load_state_dict(weights)
        assert outcome.acc_best == trainer.test(module, data)[0]["test/acc"]
    assert outcomes[0].acc_last != outcomes[1].acc_last
    summary = rows(run / "summary.csv")
    assert list(summary[0]) == ["method", "epoch", "seeds", "mean", "sd", "difference", "low", "high"]
    assert summary[0]["difference"] == ""
    gain = sum(law.acc_last - base.acc_last for base, law in zip(outcomes[::2], outcomes[1::2], strict=True)) / 2
    assert float(summary[1]["difference"]) == pytest.approx(gain)
    assert (run / "summary.txt").read_text() in out
    assert (run / "compare.png").is_file()

    # Finished trainings are not repeated.
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))  # as if stopped in the second seed
    ran, train = [], Training.run
    monkeypatch.setattr(Training, "run", lambda self, *rest: ran.append((self.method, self.seed)) or train(self, *rest))
    command(main, *arguments, "seeds=3")
    assert ran == [("law", 1001), ("base", 1002), ("law", 1002)]
    assert read_outcomes(file)[:4] == outcomes
    assert command(main, *arguments, "seeds=2") == out
    assert len(ran) == 3
    StrategyAgent(num_stages=3, seed=5).save("other.pt")
    with pytest.raises(SystemExit, match="strategy_sha256 was"):
        command(main, *arguments, "strategy=other.pt")


def test_a_training_that_fails_ends_those_beside_it():
    makers = [partial(time.sleep, 600), partial(int, "no network")]
    trainings = [Training("base", seed, {"method": {}, "trainer": {}}, makers[seed], dict) for seed in (0, 1)]
    with pytest.raises(ValueError, match="no network"):
        list(outcomes_of(trainings, 2, lambda: None))


def test_all_methods_side_by_side(command, small, tmp_path):
    methods = [method for method in METHODS if method != "law"]  # so that no strategy is needed
    options = [*(f"+method.{name}.num_stages=3" for name in methods[1:]), "seeds=2"]
    out = command(main, *small, *options, f"methods=[{','.join(methods)}]", "run_dir=two", "workers=2")
    outcomes = {(each.method, each.seed): each for each in read_outcomes(tmp_path / "two" / "compare.csv")}
    assert set(outcomes) == {(name, seed) for name in methods for seed in (1000, 1001)}
    command(main, *small, *options, "methods=[base,focal]", "run_dir=one")
    for outcome in read_outcomes(tmp_path / "one" / "compare.csv"):
        assert outcomes[outcome.method, outcome.seed] == outcome
    assert "clean validation data (l2rw, meta_weight_net)" in out
    assert "the rate of wrong labels (co_teaching)" in out
