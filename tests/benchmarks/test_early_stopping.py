import early_stopping


def test_a_stopped_training_and_the_report_of_its_gain():
    task = ("digits", "p30", "adam", "val/acc", 1)
    rows = [early_stopping.run(*task, method, draw, None) for method in ("plain", "fit") for draw in (0, 1)]
    assert all(1 < row["epochs"] < early_stopping.MAX_EPOCHS for row in rows)
    gains = [100 * (fit["best"] - plain["best"]) for plain, fit in zip(rows[:2], rows[2:], strict=True)]
    (line,) = [
        line
        for line in early_stopping.report(rows, early_stopping.METHODS, early_stopping.TASK).splitlines()
        if " fit " in line
    ]
    assert f"{sum(gains) / 2:+.1f} [" in line
