import doctest
from pathlib import Path

import numpy as np
import pytest
import tiny
from scipy import stats

import search
from rivals import report
from rivals.report import plain_table, read_rows, summarise, t_interval, verdicts
from tasks import CIFAR_DRAWS, long_tailed_digits, pooled_cifar


def row(method, search_seed, acc, draw, steps=2400):
    return {
        "task": "tiny", "method": method, "search_seed": search_seed, "budget": 12, "eval_seeds": 2, "draw": draw,
        "steps": steps, "steps_per_training": 200, "search_s": 6.0, "acc_last": acc, "acc_best": acc,
        "wrong_fitted": [0.8, 0.8],
    }  # fmt: skip


def drawn(method, draw, *acc):
    return [row(method, seed, (value, value + 0.1), draw) for seed, value in enumerate(acc)]


def test_an_interrupted_benchmark_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(search, "make_tasks", lambda cache, draw: {"digits_noise40": tiny.make_task()})
    options = ["--tasks", "digits_noise40", "--draws", "0", "0", "--budget", "12", "--eval-seeds", "2"]
    options += ["--out", str(tmp_path), "--methods", "constant_3", "uniform", "handmade", "--search-seeds", "2"]
    search.main(options)
    results = tmp_path / search.RESULTS
    whole = [(each["method"], each["search_seed"], each["acc_last"]) for each in read_rows(results)]
    methods = ["base", "constant_3", "uniform", "handmade", "uniform", "handmade"]
    assert [each[:2] for each in whole] == list(zip(methods, [0, 0, 0, 0, 1, 1], strict=True))

    kept = results.read_text().splitlines(keepends=True)[:4]
    results.write_text("".join(kept))
    search.main(options)
    assert [(each["method"], each["search_seed"], each["acc_last"]) for each in read_rows(results)] == whole
    assert results.read_text().splitlines(keepends=True)[:4] == kept  # not done again

    results.write_text(results.read_text() * 2)  # as by another run into the same folder at the same time
    search.main([*options, "--report"])
    assert "| tiny | handmade   |     1 |        2 |" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} >= {"table.md", "tiny.png", search.RESULTS}


def test_bad_input_is_named(tmp_path):
    with pytest.raises(SystemExit, match="need CIFAR-10: give --cifar PATH"):
        search.main(["--tasks", "cifar_flip", "--methods", "base", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="has no rows of this budget"):
        search.main(["--report", "--out", str(tmp_path)])
    (tmp_path / search.RESULTS).write_text("nonsense\n")
    with pytest.raises(SystemExit, match="Line 1 of"):
        search.main(["--report", "--out", str(tmp_path)])


def test_draws_are_pairs_of_their_own():
    rows = [
        *drawn("base", 1, 0.5), *drawn("base", 7, 0.3),
        *drawn("law", 1, 0.6, 0.8), *drawn("law", 7, 0.6),
        *drawn("pbt", 1, 0.6), row("pbt", 0, (0.45, 0.55), 7, steps=2401),
        *drawn("random", 1, 0.9), *drawn("random", 2, 0.9),  # of other draws than LAW's, one without plain training
    ]  # fmt: skip
    found = {summary.method: summary for summary in summarise(rows)}
    assert found["law"].by_draw == {1: pytest.approx(0.2), 7: pytest.approx(0.3)}
    assert str(found["law"].interval) == str(t_interval([0.2, 0.3]))  # a draw searched twice counts once
    assert found["law"].by_search.min() == pytest.approx(0.1)
    assert found["law"].best_epoch_gain == pytest.approx(0.25)
    assert found["random"].draws == [1]
    (verdict,) = verdicts(list(found.values()))
    assert (verdict.rival, verdict.draws) == ("pbt", [1, 7])  # random has searched once on a draw of LAW's
    assert verdict.difference.low == pytest.approx(0.125 - 12.706 * 0.025, abs=1e-3)  # of 0.1 and 0.15
    assert verdict.words == "level"
    assert plain_table(rows).splitlines()[-1].split()[3] == "45.0"
    assert found["law"].deviation == pytest.approx(0.1 * 2**0.5)  # of the two on draw 1, whatever draw 7 has
    assert found["pbt"].deviation is None
    lines = {line.split("|")[2].strip(): line for line in report.results_table([*found.values()]).splitlines()}
    assert [method for method, line in lines.items() if "**" in line] == ["law"]  # random's +40 is of one draw alone
    assert [method for method, line in lines.items() if "!" in line] == ["pbt"]  # one step more than its budget


def test_intervals_are_students():
    values = np.array([0.1, 0.3, 0.2])
    deviations = {1: values.std(ddof=1) / 3**0.5, 2: (2 * values.var(ddof=1) / 3) ** 0.5}  # the second is Welch's
    for others, mean, kind, degrees in ((None, 0.2, 1, 2), (values + 0.1, -0.1, 2, 4)):
        found, half = t_interval(values, others), stats.t.ppf(0.975, degrees) * deviations[kind]
        assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - half, mean + half))
    assert str(t_interval([0.1, 0.1])) == str(t_interval([0.3, 0.3], [0.2, 0.2])) == "[+10.0, +10.0]"


def test_the_document_has_what_the_command_makes_of_its_rows():
    folder = Path(__file__).parents[2] / "docs"
    rows = [each for each in read_rows(folder / "search" / "digits.jsonl") if each["draw"] < 10]
    found = summarise(rows)
    text = (folder / "search.md").read_text()
    for made in (plain_table(rows), report.results_table(found), report.verdict_table(verdicts(found))):
        assert made in text
    assert doctest.testmod(report) == (0, 1)


def test_the_tail_is_long_and_its_parts_are_apart():
    arrays = long_tailed_digits()
    assert np.bincount(arrays["train_y"]).tolist() == [60, 39, 25, 16, 11, 7, 4, 3, 2, 2]
    assert len(arrays["val_y"]) == 500
    assert len(arrays["test_y"]) == 600
    images = [image.tobytes() for name in ("train_x", "val_x", "test_x") for image in arrays[name]]
    assert len(set(images)) == len(images)


def test_cifar_is_pooled_and_its_parts_and_draws_are_apart(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(256, size=(80, 32, 32, 3), dtype=np.uint8), np.arange(80) % 10
    np.savez(tmp_path / "given.npz", train_x=x[:60], train_y=y[:60], test_x=x[60:], test_y=y[60:])
    parts = [pooled_cifar(tmp_path / "given.npz", draw, train=20, val=10, test=10) for draw in CIFAR_DRAWS]
    images = np.concatenate([part[f"{name}_x"] for part in parts for name in ("train", "val", "test")])
    labels = np.concatenate([part[f"{name}_y"] for part in parts for name in ("train", "val", "test")])
    pooled = x.reshape(80, 16, 2, 16, 2, 3).mean((2, 4)).transpose(0, 3, 1, 2) / 255
    sources = np.array([np.abs(pooled - image).mean((1, 2, 3)).argmin() for image in images])
    assert np.allclose(pooled[sources], images, atol=1e-5)
    assert (y[sources] == labels).all()
    assert sorted(sources) == list(range(80))
