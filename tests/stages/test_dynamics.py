"""Sums per sample against a plain loop, joined over processes, and restored."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from law_lightning import Samples
from law_lightning.stages import dynamics
from law_lightning.stages.dynamics import SampleDynamics


def step(seed, index, classes=4):
    draw = torch.Generator().manual_seed(seed)
    count = len(index)
    logits = 2 * torch.randn(count, classes, generator=draw)
    target = torch.randint(classes, (count,), generator=draw)
    samples = Samples(torch.rand(count, generator=draw), logits, target, index=torch.tensor(index))
    return SimpleNamespace(weighed=[(samples, 2 * torch.rand(count, generator=draw))])


def epochs(number, samples=40, batch=8):
    """Steps of whole passes, in other orders."""
    for epoch in range(number):
        order = torch.randperm(samples, generator=torch.Generator().manual_seed(epoch)).tolist()
        for i in range(0, samples, batch):
            yield step(1000 * epoch + i, order[i : i + batch])


def started(processes=1):
    found = SampleDynamics()
    found.start(SimpleNamespace(world_size=processes), None)
    return found


def naive(steps):
    rows = {}
    for each in steps:
        for samples, weights in each.weighed[:1]:
            for i, index in enumerate(samples.index.tolist()):
                if samples.valid is not None and not samples.valid[i]:
                    continue
                probability, label = samples.logits[i].softmax(0).tolist(), int(samples.target[i])
                predicted = max(range(len(probability)), key=probability.__getitem__)
                margin = probability.pop(label) - max(probability)
                one = (float(weights[i]), margin, predicted == label, float(samples.loss[i]), label, predicted)
                rows.setdefault(index, []).append(one)
    return rows


def test_the_table_is_that_of_a_plain_loop():
    steps, found = list(epochs(15)), started()  # 75 steps: some are added when there are many, some when asked for
    for each in steps:
        found.after_step(each)
    rows, table = naive(steps), found.table()
    assert table["index"].tolist() == sorted(rows) == list(range(40))
    for i, each in rows.items():
        weight, margin, right, loss, label, _ = zip(*each, strict=True)
        mean = {"weight": weight, "margin": margin, "right": right, "doubt": [max(0.0, -value) for value in margin]}
        for name, values in mean.items():
            assert table[name][i].item() == pytest.approx(sum(values) / 15, abs=1e-5), name
        assert table["last_margin"][i].item() == pytest.approx(margin[-1], abs=1e-5)
        assert table["last_loss"][i].item() == pytest.approx(loss[-1])
        assert (table["seen"][i], table["given"][i]) == (15, label[-1])
    suspects = found.suspects(5)
    assert [each["score"] for each in suspects] == table["doubt"].sort(descending=True).values[:5].tolist()
    assert {each["index"] for each in found.suspects()} == set((table["margin"] < 0).nonzero().flatten().tolist())


def test_the_predicted_class_is_the_one_most_often_predicted_in_place_of_the_label():
    found = started()
    predictions = [[1, 0, 2], [1, 0, 3], [0, 0, 3], [2, 0, 3], [1, 0, 0]]  # a row an epoch; all labels are 0
    for row in predictions:
        logits = torch.nn.functional.one_hot(torch.tensor(row), 4).float()
        samples = Samples(torch.zeros(3), logits, torch.zeros(3).long(), index=torch.arange(3))
        found.after_step(SimpleNamespace(weighed=[(samples, None)]))
        found.table()  # as at an epoch's end
    others = [Counter(value for value in column if value).most_common(1) for column in zip(*predictions, strict=True)]
    expected = [most[0][0] if most else 0 for most in others]
    assert found.table()["predicted"].tolist() == expected == [1, 0, 3]


def test_samples_without_an_index_or_a_label_are_left_out():
    found = started()
    logits, target = torch.zeros(3, 2), torch.tensor([0, 1, 0])
    valid = Samples(
        torch.ones(3), logits, target, index=torch.tensor([5, 1, 1]), valid=torch.tensor([True, True, False])
    )
    unknown = Samples(torch.ones(3), logits, target)
    found.after_step(SimpleNamespace(weighed=[(unknown, None), (valid, None), (valid, None)]))  # the first known one
    assert {name: found.table()[name].tolist() for name in ("index", "seen", "weight")} == {
        "index": [1, 5], "seen": [1, 1], "weight": [1.0, 1.0],
    }  # fmt: skip
    several = Samples(torch.ones(3), logits, target, index=torch.arange(3), one_label=False)
    found.after_step(SimpleNamespace(weighed=[(several, None)]))
    assert found.many_labels
    assert len(found.table()["index"]) == 2


def test_a_sample_drawn_twice_in_a_batch_counts_twice():
    found, twice = started(), step(0, [3, 1, 3])
    found.after_step(twice)
    table = found.table()
    assert table["seen"].tolist() == [1, 2]
    assert table["last_loss"].tolist() == twice.weighed[0][0].loss[[1, 2]].tolist()


def test_processes_join_their_parts_at_an_epochs_end(monkeypatch):
    steps = list(epochs(3))
    alone = started()
    first, second = started(2), started(2)
    for number, each in enumerate(steps):
        alone.after_step(each)
        (first, second)[number % 2].after_step(each)
        if number % 5 == 4:
            parts = []
            monkeypatch.setattr(
                dynamics, "gathered_from_processes", lambda mine, parts=parts: parts.append(mine) or [{}]
            )
            for process in (first, second):
                process.before_module_hook("on_train_epoch_end")
            monkeypatch.setattr(dynamics, "gathered_from_processes", lambda mine, parts=parts: parts)
            for process in (first, second):
                process.before_module_hook("on_train_epoch_end")
    for name, value in alone.table().items():
        assert torch.equal(value, first.table()[name]), name
        assert torch.equal(value, second.table()[name]), name


def test_a_state_goes_on_bit_for_bit():
    steps, whole, before, after = list(epochs(4)), started(), started(), started()
    for number, each in enumerate(steps):
        whole.after_step(each)
        (before if number < 13 else after).after_step(each)  # within an epoch
        if number == 12:
            after.load_state_dict(before.state_dict())
    for name, value in whole.table().items():
        assert torch.equal(value, after.table()[name]), name
    with pytest.raises(ValueError, match="table of samples"):
        after.load_state_dict({"table": torch.zeros(3, 5)})
