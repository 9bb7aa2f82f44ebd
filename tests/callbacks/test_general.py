"""``LAWCallback()`` as it comes: the rule general, against loops."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, TensorDataset

import zoo
from law_lightning import LAWCallback, StrategyAgent
from law_lightning.data import DigitsDataModule
from law_lightning.models import MLP, ImageClassifier
from law_lightning.second_network.evaluation import Evaluator
from methods import STAGES
from zoo import CLASSES, DropoutMLP, assert_identical, differ, fit, loaders, make_trainer


class ConfidentErrors(L.Callback):
    """Of the network that is not weighted, else of the target, at each stage's end: by a loop over the samples."""

    def __init__(self, law):
        self.law, self.found = law, []

    @torch.no_grad()
    def on_train_batch_end(self, trainer, pl_module, *args):
        if len(self.law.history) > len(self.found):
            net = (self.law.reference or pl_module).net.eval()
            rows = []
            for x, y in loaders()[1]:
                for probabilities, label in zip(net(x).softmax(1).tolist(), y.tolist(), strict=True):
                    top = max(probabilities)
                    rows.append((top, probabilities.index(top) != label))
            net.train()
            rows.sort(reverse=True, key=lambda row: row[0])
            most = rows[: round(len(rows) / 3)]
            everywhere = sum(wrong for _, wrong in rows) / len(rows)
            self.found.append(sum(wrong for _, wrong in most) / len(most) / everywhere)


@pytest.mark.parametrize("mode", ["search", "apply"])
def test_the_weights_follow_the_label_noise_and_the_classes_of_the_validation_data(mode):
    law = LAWCallback(mode=mode, warmup_stages=1, **STAGES)
    before, measured = law.agent.full_state(), ConfidentErrors(law)
    of_training, measure = [], law.measure

    def noted(trainer, module, record):
        of_training.append(record["confident_error"])
        return measure(trainer, module, record)

    law.measure = noted
    fit(DropoutMLP, [law, measured])
    smooth = gate = 0.0
    for stage, (record, held_out) in enumerate(zip(law.history, measured.found, strict=True)):
        assert record["theta"] == pytest.approx([4 * gate, 0.8 * gate], abs=1e-5)
        noise = max(held_out, of_training[stage])
        assert record["confident_error"] == pytest.approx(noise)
        smooth = noise if stage == 0 else (smooth + noise) / 2
        assert record["noise_smooth"] == pytest.approx(smooth)
        gate = min(max((smooth - 0.5) / 0.15, 0.0), 1.0)
    assert any(record["theta"][0] > 0 for record in law.history)  # a fifth of the labels are wrong

    for name, tensor in law.agent.full_state()["networks"].items():  # it has neither explored nor learned
        assert torch.equal(tensor, before["networks"][name])
    counts = [sum(record["count_per_class"][c] for record in law.history) for c in range(CLASSES)]
    wanted = loaders()[1].dataset.tensors[1].bincount().tolist()
    quotients = [(a + 1) / (b + 1) for a, b in zip(wanted, counts, strict=True)]
    expected = [CLASSES * quotient / sum(quotients) for quotient in quotients]
    assert law.weighting.class_ratio.tolist() == pytest.approx(expected, rel=1e-5)
    last = law.history[-1]
    margins, counts = last["margin_per_class"], last["count_per_class"]
    mean = sum(m * n for m, n in zip(margins, counts, strict=True)) / sum(counts)
    assert law.weighting.margin_shift.tolist() == pytest.approx([mean - margin for margin in margins], abs=1e-5)


def test_it_explores_and_learns_when_asked():
    law = LAWCallback(explore=True, warmup_stages=1, **STAGES)
    before = law.agent.full_state()["networks"]
    fit(DropoutMLP, [law])
    assert any(not torch.equal(tensor, before[name]) for name, tensor in law.agent.full_state()["networks"].items())
    assert len({tuple(record["theta"]) for record in law.history}) == len(law.history)


def test_other_strategies_explore_as_before():
    assert LAWCallback(StrategyAgent()).explore
    assert LAWCallback(features=["loss"]).learn
    assert LAWCallback(features=["loss"]).agent.hparams["init"] is None
    assert not LAWCallback("general").explore
    assert LAWCallback("general", num_stages=7).num_stages == 7
    assert LAWCallback("general", features=["margin"]).recover
    with pytest.raises(ValueError, match="The rule general weighs the features"):
        LAWCallback("general", features=["loss"])


@pytest.mark.parametrize("keep", ["best", "target"])
def test_one_line_says_which_network_is_kept(monkeypatch, keep):
    lines = []
    monkeypatch.setattr("law_lightning.callbacks.law.rank_zero_info", lines.append)
    law = LAWCallback(warmup_stages=1, keep=keep, **STAGES)
    assert law.accuracies is None
    fit(DropoutMLP, [law])
    (line,) = lines
    assert law.accuracies == {name: law.history[-1][f"acc_{name}"] for name in ("target", "reference")}
    assert law.kept == ("target" if keep == "target" else max(law.accuracies, key=law.accuracies.get))
    target, reference = (f"{law.history[-1][f'acc_{name}']:.1%}" for name in ("target", "reference"))
    assert line.startswith(f"LAW keeps the {law.kept}: validation accuracy {target} with weights")
    assert f"{reference} without" in line


def test_a_first_fit_pays_on_wrong_labels_that_the_validation_data_share():
    """40 % of the labels are redrawn, of both; plain training fits them."""
    data = DigitsDataModule(500, 400, batch_size=128)
    data.setup()
    made = [getattr(data, f"{name}_dataloader")().dataset for name in ("train", "val", "test")]
    train, val, test = ((part.x, part.y) for part in made)
    draw = torch.Generator().manual_seed(0)

    def noisy(x, y):
        wrong = torch.rand(len(y), generator=draw) < 0.4
        return TensorDataset(x, torch.where(wrong, torch.randint(10, y.shape, generator=draw), y))

    train, val = DataLoader(noisy(*train), 128, shuffle=True), DataLoader(noisy(*val), 512)
    accuracies = []
    for callbacks in ([], [LAWCallback()]):
        L.seed_everything(0)
        module = ImageClassifier(MLP((1, 8, 8), 10))
        make_trainer(callbacks, max_epochs=60).fit(module, train, val)
        accuracies.append(float((module(test[0]).argmax(1) == test[1]).float().mean()))
    assert accuracies[1] > accuracies[0] + 0.08


@pytest.mark.parametrize("module", [DropoutMLP, zoo.AdamCosine, zoo.BatchNormCNN], ids=lambda module: module.__name__)
def test_a_target_that_goes_on_from_the_reference_is_plain_training(module, monkeypatch):
    """With optimizer state and rates: where the target never validates as well, plain training is what is left."""
    predictions = Evaluator.predictions

    def worse(self):
        found = predictions(self)
        return [each._replace(accuracy=torch.full_like(each.accuracy, row)) for row, each in enumerate(found)]

    monkeypatch.setattr(Evaluator, "predictions", worse)
    seen = []

    class Seen(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, *args):
            seen.append(law.reference is not None and differ(pl_module.state_dict(), law.reference.state_dict()))

    law = LAWCallback(keep="target", warmup_stages=1, **STAGES)
    assert_identical(fit(module, [law, Seen()]).state_dict(), zoo.plain(module))
    assert any(seen)  # within a stage its weights lead it elsewhere
    assert [record["recovered"] for record in law.history] == [0, 1, 1, 1, 1]
    strengths = [record["theta"][0] for record in law.history]
    assert all(later <= 4 / 2**stage for stage, later in enumerate(strengths[1:]))


class ManyLabels(DropoutMLP):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.binary_cross_entropy_with_logits(self(x), F.one_hot(y, CLASSES).float())


class ManyPositions(DropoutMLP):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(torch.stack([self(x)] * 2, dim=2), torch.stack([y] * 2, dim=1))


@pytest.mark.parametrize("module", [ManyLabels, ManyPositions])
def test_samples_without_a_margin_are_refused_at_the_first_step(module):
    with pytest.raises(MisconfigurationException, match=r"margin of its one label.*LAWCallback\(StrategyAgent\(\)\)"):
        fit(module, [LAWCallback(**STAGES)])


@pytest.mark.parametrize(("options", "warned"), [({"mode": "apply"}, True), ({}, False)])
def test_without_a_reference_the_rule_says_what_it_cannot_detect(options, warned, recwarn):
    fit(DropoutMLP, [LAWCallback(**options, **STAGES)])
    assert any("cannot detect where its weights harm" in str(each.message) for each in recwarn) == warned
