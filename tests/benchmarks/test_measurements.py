"""Each script that measures speed or memory runs on tiny settings and makes its table."""

import importlib.util
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import fdu
import large
import overhead
import workers

TINY = replace(overhead.CASES["mlp"], batch_size=8, epoch_steps=4, stage_epochs=1, num_stages=3)


def rows_of(text, heading):  # the cells below it
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.strip().startswith(f"{heading}  "))
    return [re.split(r"\s{2,}", line.strip()) for line in lines[start + 2 :] if line]


def in_a_thread(workers, mp_context):  # in place of fresh processes, which take long to start
    return ThreadPoolExecutor(workers)


def test_overhead(monkeypatch, capsys):
    monkeypatch.setitem(overhead.CASES, "mlp", TINY)
    monkeypatch.setattr(overhead, "ProcessPoolExecutor", in_a_thread)
    overhead.main(["--cases", "mlp", "--repeats", "1"])
    plain, apply, search = rows_of(capsys.readouterr().out, "case")
    assert "ms a step" in plain[2]
    for row in (apply, search):  # mode, whole fit, aim, step, stage end, memory
        assert min(float(row[column].split()[0]) for column in (1, 3)) > 0
        assert row[5].endswith("MiB")
    assert search[2] == f"{overhead.SEARCH_AIM * (2 - 1 / 3):.2f}"


def test_the_clock_tells_steps_within_a_stage_from_those_that_end_one(monkeypatch):
    # Stages of one epoch of 4 steps: the warm-up, then steps of 5 (an epoch's first), 1, 1 and 1 + 3 seconds.
    monkeypatch.setattr("time.process_time", iter([0, 1, 2, 3, 4, 9, 10, 11, 15, 16]).__next__)
    clock = overhead.Clock(TINY, "cpu")
    clock.setup()
    for _ in range(8):
        clock.on_train_batch_end()
    clock.on_train_end()
    assert (clock.whole, clock.step, clock.stage_end) == (16, 1, 3)


def test_methods(monkeypatch, capsys):
    place = Path(overhead.__file__).with_name("methods.py")  # a helper of the tests has the same name
    spec = importlib.util.spec_from_file_location("methods_benchmark", place)
    methods = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(methods)
    monkeypatch.setattr(methods, "METHODS", {name: methods.METHODS[name] for name in ("plain", "law (apply)", "l2rw")})
    methods.main(["--batch-size", "2", "--steps", "1", "--repeats", "1"])
    found = rows_of(capsys.readouterr().out, "method")
    assert [(row[0], row[2]) for row in found] == [("law (apply)", "1.05"), ("l2rw", "3.3")]
    assert all(float(row[1].split()[0]) > 0 for row in found)


def test_fdu(monkeypatch, capsys):
    for peer in ("make_sb3", "make_torchrl"):  # which are not installed here
        monkeypatch.setattr(fdu, peer, lambda batch_size: float)
    monkeypatch.setattr(fdu, "version", lambda name: "none")
    assert fdu.make_ours(512, **fdu.PLAIN)(5) == pytest.approx(2 * 2000 / 512)  # whole epochs of 3 and 0.9 batches
    fdu.main(["--batch-sizes", "1000", "--repeats", "1", "--updates", "2"])
    ((size, *speeds),) = rows_of(capsys.readouterr().out, "B")
    assert (size, len(speeds)) == ("1000", 6)
    assert all(float(speed) > 0 for speed in speeds[:4])


def test_workers(monkeypatch, capsys):
    monkeypatch.setattr(workers, "KINDS", {"2 searches of 1 worker": (1, 1)})  # two would be two threads
    monkeypatch.setattr(workers, "ProcessPoolExecutor", in_a_thread)
    workers.main(["--episodes", "1", "--epochs", "5", "--rounds", "1"])
    ((name, rate, share, _),) = rows_of(capsys.readouterr().out, "search")
    assert (name, share) == ("2 searches of 1 worker", "1.00 [1.00, 1.00]")
    assert float(rate.split()[0]) > 0


def test_large(capsys):
    large.main(["--stages", "20", "--transitions", "200", "--episodes", "10"])
    told = capsys.readouterr().out
    assert (told.count("an addition"), told.count("s an episode")) == (4, 10)
    assert all(part in told for part in ("history of 20 stages", "limited to 20:"))
