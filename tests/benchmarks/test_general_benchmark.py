import pytest
import torch

import general


@pytest.mark.parametrize("noise", ["clean", "u40", "p30", "t50"])
def test_splits_share_no_sample_and_have_their_noise(noise):
    (train_x, train), (val_x, val), (test_x, test) = general.splits("digits", noise, 100, None)
    clean = general.splits("digits", "clean", 100, None)
    for row in test_x[:20]:
        assert not any(bool((row == other).all(dim=(1, 2, 3)).any()) for other in (train_x, val_x))
    assert torch.equal(test, clean[2][1])
    changed = float((val != clean[1][1]).float().mean())
    assert changed == pytest.approx({"u40": 0.36, "p30": 0.3}.get(noise, 0.0), abs=0.06)
    counts = train.bincount(minlength=10)
    assert (counts[0] >= 15 * counts[9]) == (noise == "t50")


def test_a_training_and_the_report_of_its_gain():
    job = ("digits", "small", "u40", "sgd")
    rows = [general.run((*job, method), draw, None) for method in ("plain", "fit") for draw in (0, 1)]
    gains = [100 * (fit["last"] - plain["last"]) for plain, fit in zip(rows[:2], rows[2:], strict=True)]
    (line,) = [line for line in general.report(rows).splitlines() if " fit " in line]
    assert f"{sum(gains) / 2:+.1f} [" in line
    assert all(0 < row[epoch] <= 1 for row in rows for epoch in ("last", "best"))


def test_second_trainings_are_on_the_labels_that_the_first_gave(monkeypatch):
    seen, fit = [], general.fit

    def noted(job, method, draw, train, val, test):
        seen.append((method, len(train[0]), train[1]))
        return fit(job, method, draw, train, val, test)

    monkeypatch.setattr(general, "fit", noted)
    for method in general.SECOND:
        general.run(("digits", "small", "u40", "sgd", method), 0, None)
    assert [method for method, *_ in seen] == ["plain", "plain", "fit", "plain", "fit", "plain"]
    sizes = [size for _, size, _ in seen]
    assert sizes[:3] == [sizes[0]] * 3 > [sizes[3]] * 3
    assert sizes[4:] == [sizes[0]] * 2
    true = general.splits("digits", "clean", 0, None)[0][1]
    assert (seen[5][2] == true).sum() > (seen[4][2] == true).sum()
