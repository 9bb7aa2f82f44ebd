import torch

import general
import suspects


def test_precision_is_the_share_of_wrong_labels_among_as_many_suspects():
    wrong = torch.tensor([True, False, True, False, False])
    assert suspects.precision(torch.tensor([0.9, 0.8, 0.7, 0.1, 0.0]), wrong) == 0.5
    assert suspects.precision(wrong.float(), wrong) == 1.0


def test_a_training_judges_its_scores(monkeypatch):
    monkeypatch.setitem(general.NETWORKS, "mlp", general.NETWORKS["small"])  # 15 epochs
    rows = [suspects.run("digits", "u40", "plain", draw, None) for draw in (0, 1)]
    for row in rows:
        assert 150 < row["wrong"] < 210
        assert set(row["precision"]) >= {"margin", "doubt", "last_loss", "aum", "best_loss"}
        assert row["precision"]["doubt"] > 0.7  # chance: 0.36
    mean = 50 * sum(row["precision"]["aum"] for row in rows)
    (line,) = [line for line in suspects.report(rows).splitlines() if line.startswith("plain aum")]
    assert f"{mean:.1f} [" in line
