import doctest
import json

import numpy as np
import pytest
import torch
from tiny import make_task

import search
from rivals import table
from rivals.lab import final_seeds
from rivals.rows import append_row, key_of, read_rows
from rivals.summary import plain_training, summarise, verdicts
from tasks import CIFAR_DRAWS, NAMES, long_tailed_digits, make_tasks, pooled_cifar, prepare


def row(method, search_seed=0, acc=(0.5, 0.6), task="tiny", steps=2400, **more):
    return {
        "task": task, "method": method, "search_seed": search_seed, "budget": 12, "eval_seeds": len(acc), "draw": 0,
        "steps": steps, "steps_per_training": 200, "search_s": 6.0, "eval_s": 1.0, "acc_last": list(acc),
        "acc_best": list(acc), "val_last": list(acc), "wrong_fitted": [0.8] * len(acc), **more,
    }  # fmt: skip


# -- rows ------------------------------------------------------------------------------------------------------


def test_half_a_line_is_no_row_and_goes_with_the_next(tmp_path):
    path = tmp_path / "results.jsonl"
    append_row(path, row("base"))
    with path.open("a") as file:
        file.write('{"task": "ti')
    assert [key_of(found) for found in read_rows(path)] == [("tiny", "base", 0, 12, 2, 0)]
    append_row(path, row("law"))
    assert [found["method"] for found in read_rows(path)] == ["base", "law"]
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(ValueError, match="Line 1 of"):
        read_rows(path)


# -- the command -----------------------------------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch):
    """The benchmark on the tiny task, in this process."""
    ran = []

    def finished(jobs, processes):
        for job in jobs:
            ran.append(job.key[:3])
            yield job, search.run_job(job)

    monkeypatch.setattr(search, "make_tasks", lambda cache, draw: {"digits_noise40": make_task()})
    monkeypatch.setattr(search, "finished", finished)
    return ran


def test_an_interrupted_benchmark_goes_on_where_it_was(tmp_path, here, capsys):
    options = [
        "--tasks",
        "digits_noise40",
        "--draws",
        "0",
        "0",
        "--budget",
        "12",
        "--eval-seeds",
        "2",
        "--out",
        str(tmp_path),
    ]
    methods = ["--methods", "constant_3", "uniform", "handmade", "--search-seeds", "2"]
    search.main([*options, *methods])
    everything = [
        ("tiny", "base", 0), ("tiny", "constant_3", 0), ("tiny", "uniform", 0), ("tiny", "handmade", 0),
        ("tiny", "uniform", 1), ("tiny", "handmade", 1),
    ]  # fmt: skip
    assert here == everything
    results = tmp_path / search.RESULTS
    whole = [json.loads(line) for line in results.read_text().splitlines()]

    kept = results.read_text().splitlines(keepends=True)
    results.write_text("".join(kept[:3]) + kept[3][:50])
    here.clear()
    search.main([*options, *methods])
    assert here == everything[3:]
    again = [json.loads(line) for line in results.read_text().splitlines()]
    timed = ("search_s", "eval_s")
    assert [{k: v for k, v in r.items() if k not in timed} for r in again] == [
        {k: v for k, v in r.items() if k not in timed} for r in whole
    ]

    here.clear()
    results.write_text(results.read_text() * 2)  # as by another run into the same folder at the same time
    search.main([*options, "--report"])
    assert here == []
    assert "| tiny | handmade   |     1 |        2 |" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} >= {"table.md", "table.csv", "tiny.png", search.RESULTS}


def test_bad_input_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit, match="need CIFAR-10: give --cifar PATH"):
        search.main(["--tasks", "cifar_flip", "--methods", "base", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="has no rows of this budget"):
        search.main(["--report", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        search.main(["--budget", "3"])
    assert "--budget must be at least 12" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        search.main(["--draws", "1", "-1"])
    assert "--draws must be at least 0" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"images for the draws \(0, 1\), not for 2"):
        search.main(["--tasks", "cifar_flip", "--methods", "base", "--draws", "2", "--out", str(tmp_path)])


def test_jobs_run_in_processes_of_their_own(tmp_path):
    jobs = [search.Job(make_task(), "constant_1", seed, 12, 2, tmp_path) for seed in range(2)]
    rows = [news[1] for news in search.finished(jobs, 1) if news is not None]
    assert sorted(found["search_seed"] for found in rows) == [0, 1]


# -- numbers ---------------------------------------------------------------------------------------------------


def test_gains_are_paired_and_the_best_rival_is_named():
    rows = [
        row("base", acc=(0.5, 0.7), steps=0),
        row("random", 0, (0.6, 0.8)), row("random", 1, (0.6, 0.9)),
        row("pbt", 0, (0.5, 0.7)), row("pbt", 1, (0.5, 0.7), steps=2401),
        row("law", 0, (0.7, 0.9)), row("law", 1, (0.8, 1.0)), row("law", 2, (0.8, 0.9)),
    ]  # fmt: skip
    found = {summary.method: summary for summary in summarise(rows)}
    assert np.allclose(found["random"].by_search, [0.1, 0.15])
    assert found["random"].interval.mean == pytest.approx(0.125)
    assert found["random"].worst == pytest.approx(0.1)
    assert found["random"].deviation == pytest.approx(np.std([0.1, 0.15], ddof=1))
    assert found["pbt"].over_budget
    assert not found["random"].over_budget
    (verdict,) = verdicts(list(found.values()))
    assert verdict.rival == "random"
    assert verdict.difference.mean == pytest.approx(np.mean([0.2, 0.3, 0.25]) - 0.125)
    assert verdict.words == "ahead"
    assert plain_training(rows, "wrong_fitted") == {"tiny": pytest.approx(0.8)}


def test_draws_are_pairs_of_their_own():
    def drawn(method, draw, *acc):
        return [row(method, seed, (value, value + 0.1), draw=draw) for seed, value in enumerate(acc)]

    rows = [
        *drawn("base", 1, 0.5), *drawn("base", 7, 0.3),
        *drawn("law", 1, 0.6, 0.8), *drawn("law", 7, 0.6),
        *drawn("pbt", 1, 0.6), *drawn("pbt", 7, 0.45),
        *drawn("random", 1, 0.9), *drawn("random", 2, 0.9),  # of other draws than LAW's, one without plain training
    ]  # fmt: skip
    found = {summary.method: summary for summary in summarise(rows)}
    assert found["law"].by_draw == {1: pytest.approx(0.2), 7: pytest.approx(0.3)}
    assert found["law"].interval.mean == pytest.approx(0.25)  # a draw searched twice counts once
    assert found["law"].interval.low == pytest.approx(0.25 - 12.706 * 0.05, abs=1e-3)  # t of 0.975 with one degree
    assert found["law"].worst == pytest.approx(0.1)
    assert found["law"].best_epoch_gain == pytest.approx(0.25)
    assert found["random"].draws == (1,)
    (verdict,) = verdicts(list(found.values()))
    assert (verdict.rival, verdict.draws) == ("pbt", (1, 7))  # random has searched once on a draw of LAW's
    assert verdict.difference.mean == pytest.approx(0.125)  # 0.1 on draw 1, 0.15 on draw 7
    assert verdict.difference.low == pytest.approx(0.125 - 12.706 * 0.025, abs=1e-3)
    assert verdict.words == "level"
    assert plain_training(rows, "acc_last") == {"tiny": pytest.approx(0.45)}
    assert found["law"].deviation == pytest.approx(0.1 * 2**0.5)  # of the two on draw 1, whatever draw 7 has
    assert found["pbt"].deviation is None
    marked = [line for line in table.results_table(list(found.values())).splitlines() if "**" in line]
    assert ["| law " in line for line in marked] == [True]  # random's +40 is of one draw alone


def test_a_rival_is_compared_on_the_draws_that_it_shares_with_law():
    def drawn(method, draw, acc):
        return row(method, 0, (acc, acc + 0.1), draw=draw)

    rows = [
        *(drawn("base", draw, 0.5) for draw in (1, 2, 3)),
        drawn("law", 1, 0.7), drawn("law", 2, 0.6),  # the benchmark was stopped here
        *(drawn("pbt", draw, acc) for draw, acc in ((1, 0.65), (2, 0.6), (3, 0.9))),
    ]  # fmt: skip
    (verdict,) = verdicts(summarise(rows))
    assert verdict.draws == (1, 2)
    assert verdict.law == pytest.approx(0.15)
    assert verdict.difference.mean == pytest.approx(0.025)
    assert "1, 2" in table.verdict_table([verdict])


def test_rows_of_several_budgets_do_not_compare():
    with pytest.raises(ValueError, match="several budgets"):
        summarise([row("base"), row("law") | {"budget": 24}])


def test_the_doctests_of_the_scripts_hold():
    assert doctest.testmod(table).failed == 0
    assert doctest.testmod(table).attempted == 1


# -- tasks -----------------------------------------------------------------------------------------------------


def test_the_tail_is_long_and_its_parts_are_apart():
    arrays = long_tailed_digits()
    assert np.bincount(arrays["train_y"]).tolist() == [60, 39, 25, 16, 11, 7, 4, 3, 2, 2]
    assert len(arrays["val_y"]) == 500
    assert len(arrays["test_y"]) == 600
    images = [image.tobytes() for name in ("train_x", "val_x", "test_x") for image in arrays[name]]
    assert len(set(images)) == len(images)


def test_tasks_of_digits_train_for_their_steps(tmp_path):
    prepare(["digits_tail"], tmp_path, None)
    tasks = make_tasks(tmp_path)
    assert tuple(tasks) == NAMES
    for name, steps in (("digits_noise40", 4 * 60), ("digits_tail", 2 * 150)):
        datamodule = tasks[name].make_datamodule()
        datamodule.setup()
        assert len(datamodule.train_dataloader()) * tasks[name].trainer_kwargs["max_epochs"] == steps


def test_cifar_is_pooled_and_its_parts_are_apart(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(256, size=(80, 32, 32, 3), dtype=np.uint8)
    y = np.arange(80) % 10
    np.savez(tmp_path / "given.npz", train_x=x[:60], train_y=y[:60], test_x=x[60:], test_y=y[60:])
    arrays = pooled_cifar(tmp_path / "given.npz", train=40, val=20, test=10)
    assert {name: array.shape for name, array in arrays.items() if name.endswith("x")} == {
        "train_x": (40, 3, 16, 16), "val_x": (20, 3, 16, 16), "test_x": (10, 3, 16, 16),
    }  # fmt: skip
    pooled = x.reshape(80, 16, 2, 16, 2, 3).mean((2, 4)).transpose(0, 3, 1, 2) / 255
    for name in ("train", "val", "test"):
        for image, label in zip(arrays[f"{name}_x"], arrays[f"{name}_y"], strict=True):
            source = int(np.abs(pooled - image).mean((1, 2, 3)).argmin())
            assert np.allclose(pooled[source], image, atol=1e-5)
            assert y[source] == label
    used = np.concatenate([arrays["train_x"], arrays["val_x"]])
    assert len(np.unique(used.round(4), axis=0)) == 60


def test_two_draws_of_cifar_share_no_image(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(256, size=(80, 32, 32, 3), dtype=np.uint8), np.arange(80) % 10
    np.savez(tmp_path / "given.npz", train_x=x[:60], train_y=y[:60], test_x=x[60:], test_y=y[60:])
    parts = [pooled_cifar(tmp_path / "given.npz", draw, train=20, val=10, test=10) for draw in CIFAR_DRAWS]
    images = np.concatenate([part[f"{name}_x"] for part in parts for name in ("train", "val", "test")])
    assert len(np.unique(images.round(4), axis=0)) == 80


def test_draws_differ_in_data_noise_and_seeds(tmp_path):
    labels = []
    for draw in (0, 7):
        task = make_tasks(tmp_path, draw)["digits_noise40"]
        assert task.draw == draw
        datamodule = task.make_datamodule()
        datamodule.setup("fit")
        labels.append(torch.stack([y for *_, y in datamodule.train_dataloader().dataset]))
    assert not torch.equal(*labels)
    assert not set(final_seeds(8, 0)) & set(final_seeds(8, 7))
