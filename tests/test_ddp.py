"""The promises on two processes, with all that they leave; test_matrix.py asks for less of more modules."""

import functools

import pytest
import torch

from ddp_run import FITS
from hostile import LONG, long
from methods import METHODS
from test_promises import assert_same
from zoo import assert_identical, differ, make_data, run_script


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What came of a fit, by process; all but those of another strategy or from a checkpoint are started together."""

    @functools.cache
    def started(names, *more):
        folder = tmp_path_factory.mktemp("ddp")
        run_script("ddp_run.py", names, folder, *more)
        return folder

    def run(name, *more):
        folder = started(name if more else ",".join(FITS), *more)
        return [torch.load(file, weights_only=True) for file in sorted(folder.glob(f"{name}.*"))]

    run.folder = lambda: started(",".join(FITS))
    return run


def assert_shared(first, second):
    """BatchNorm's running statistics belong to each process; parameters are shared."""
    for name, value in first.items():
        if "running" not in name:
            assert torch.equal(value, second[name]), name


def test_the_reference_is_plain_training_on_two_processes(run):
    plain, (first, second) = run("plain"), run("law_search")
    assert_identical(first["second"], plain[0]["module"])
    for key in ("agent", "buffer"):  # both processes took the same theta from the same numbers
        assert_same(first[key], second[key])


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_one_network(name, run):
    first, second = run(name)
    assert_shared(first["module"], second["module"])
    assert differ(first["module"], run("plain")[0]["module"])
    assert [record["stage"] for record in first["history"]] == [0, 1, 2, 3, 4]
    assert_same(first["history"], second["history"])
    if name == "co_teaching":
        assert_shared(first["second"], second["second"])
        assert differ(first["module"], first["second"])


def test_processes_know_each_others_samples(run):
    """92 samples on two processes, whose batches are known though a DistributedSampler draws them."""
    first, second = (each["samples"] for each in run("focal"))
    assert_same(first, second)
    assert first["seen"].tolist() == [4] * 92
    assert torch.equal(first["given"], make_data(92, seed=1).tensors[1])


def test_the_accuracy_counts_every_sample_once(run):
    """70 validation samples on two processes; the padded ones would make it a fraction of more."""
    for record in run("law_search")[0]["history"]:
        for name in ("acc_target", "acc_reference"):
            assert record[name] * 70 == pytest.approx(round(record[name] * 70), abs=1e-6)


def test_l2rw_shares_the_clean_gradient_and_the_sum(run):
    """The mean weight over both processes is 1 (or 0 where no sample helped), which no process has by itself."""
    for record in run("l2rw")[0]["history"][1:]:
        assert 0 <= record["weight_mean"] <= 1 + 1e-5


@pytest.mark.parametrize("name", ["zero", "zero_apply", "zero_co_teaching"])
def test_weights_of_one_change_nothing_on_two_processes(name, run):
    plain, zero = run("plain")[0], run(name)[0]
    assert_identical(zero["module"], plain["module"])
    if name == "zero":
        assert_identical(zero["second"], plain["module"])
        assert [record["reward"] for record in zero["history"]] == [0.0] * 5


@long
def test_weights_of_one_change_nothing_in_spawned_processes(run):
    assert_identical(run("zero", "ddp_spawn")[0]["module"], run("plain")[0]["module"])


@pytest.mark.parametrize("step", [3, 6] if LONG else [6])
@pytest.mark.parametrize("name", ["law_search", "co_teaching"])
def test_a_stop_loses_nothing_on_two_processes(run, name, step):
    """Resumed from an epoch's end; every process has its own random states and BatchNorm."""
    whole = run(name)
    assert "running" in " ".join(whole[0]["module"])
    resumed = run(name, "ddp", run.folder() / f"{name}-step={step}.ckpt")
    for rank in (0, 1):
        for key in whole[rank].keys() - {"module", "second"}:
            assert_same(resumed[rank][key], whole[rank][key])
        for key in ("module", "second"):
            for parameter, value in resumed[rank][key].items():
                # A checkpoint holds the first process's running statistics; plain Lightning resumes all with those.
                if rank == 0 or "running" not in parameter:
                    assert torch.equal(value, whole[rank][key][parameter]), (rank, key, parameter)
