import csv
import json
import sys

import lightning as L
import numpy as np
import pytest
import torch
from scipy import stats

import gpu_table1
from hostile import long
from law_lightning import LAWCallback, StrategyAgent
from law_lightning.data.transforms import CIFAR10_STATISTICS
from law_lightning.search.episodes import QUIET, quiet_lightning
from law_lightning.second_network.trace import digest
from law_lightning.utilities.files import load_state
from table1.budget import Budget, OutOfTimeError, TooShortError
from table1.folder import check_settings
from table1.images import PAD, Batches, DeviceImages, Draws, augmented, padded, standardised
from table1.report import table
from table1.searching import InTime, Plan, search
from table1.task import Training, make_data, make_module, noisy_labels, read_arrays
from table1.timing import Costs
from table1.training import Job, freeze_strategy, train

SIDE, CLASSES = 8, 4


class Asks(Budget):
    """Runs out at the given question."""

    def __init__(self, number):
        super().__init__(None)
        self.number = number

    def lacks(self, seconds):
        self.number -= 1
        return self.number <= 0


NO_END = Budget(None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "images.npz"
    arrays = {}
    for name, number in (("train", 90), ("test", 40)):
        labels = rng.integers(CLASSES, size=number)
        labels[:CLASSES] = np.arange(CLASSES)
        bright = (50 * labels)[:, None, None, None]
        arrays[f"{name}_x"] = (bright + rng.integers(100, size=(number, SIDE, SIDE, 3))).astype(np.uint8)
        arrays[f"{name}_y"] = labels
    np.savez(path, **arrays)
    return path


def settings(**changes):
    given = {"epochs": 5, "batch_size": 16, "train_size": 64, "val_size": 20, "noise": 0.4, "noise_seed": 0}
    fixed = {"network": "small", "lr": 0.1, "accelerator": "cpu", "precision": "32-true"}
    return Training(**given | fixed | changes)


def images(number=6, height=8, width=10):
    return torch.randint(256, (number, height, width, 3), dtype=torch.uint8)


# -- images ------------------------------------------------------------------------------------------------------


def naive_crop(image, top, left, mirrored):
    """One image [H, W, C] as torchvision does it: pad, crop, mirror."""
    height, width, _ = image.shape
    canvas = np.zeros((height + 2 * PAD, width + 2 * PAD, 3), np.uint8)
    canvas[PAD : PAD + height, PAD : PAD + width] = image
    crop = canvas[top : top + height, left : left + width]
    return crop[:, ::-1] if mirrored else crop


def test_a_batch_is_augmented_as_each_image_by_itself():
    x, draws = images(40), Draws.of_epoch(40)
    expected = [
        naive_crop(x[i].numpy(), int(top), int(left), bool(mirrored))
        for i, top, left, mirrored in zip(draws.order, *draws.corner, draws.mirrored, strict=True)
    ]
    np.testing.assert_array_equal(augmented(padded(x), draws).numpy(), np.stack(expected))


def test_the_draws_are_of_the_whole_range():
    draws = Draws.of_epoch(2000)
    assert draws.corner.unique().tolist() == list(range(2 * PAD + 1))
    assert 0.45 < draws.mirrored.float().mean() < 0.55
    assert draws.order.sort().values.tolist() == list(range(2000))


def test_pixels_are_standardised_as_by_numpy():
    x = images()
    mean, deviation = (np.array(values, np.float32) for values in CIFAR10_STATISTICS)
    expected = ((x.numpy() / np.float32(255) - mean) / deviation).transpose(0, 3, 1, 2)
    found = standardised(x, *(torch.tensor(values) * 255 for values in CIFAR10_STATISTICS))
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_an_epoch_has_each_sample_once_and_follows_the_seed():
    loader = Batches(padded(images(50)), torch.arange(50), 16, training=True)

    def epoch(seed):
        torch.manual_seed(seed)
        return list(loader)

    first, again, other = epoch(1), epoch(1), epoch(2)
    assert [len(y) for _, y in first] == [16, 16, 16, 2]
    assert len(loader) == 4
    for batches in (first, other):
        assert torch.cat([y for _, y in batches]).sort().values.tolist() == list(range(50))
    assert digest(first) == digest(again) != digest(other)


def test_an_epoch_is_drawn_when_it_is_begun():
    loader = Batches(padded(images(50)), torch.arange(50), 16, training=True)
    torch.manual_seed(1)
    expected = list(loader)
    torch.manual_seed(1)
    begun = iter(loader)
    torch.manual_seed(2)
    assert digest(list(begun)) == digest(expected)


def test_evaluation_batches_are_plain_and_in_order():
    x = images(5)
    data = DeviceImages({"test": (x, torch.arange(5)), "train": (x, torch.arange(5))}, 2, eval_batch_size=3)
    assert torch.cat([y for _, y in data.test_dataloader()]).tolist() == list(range(5))
    found = torch.cat([batch for batch, _ in data.test_dataloader()])
    statistics = (torch.tensor(values) * 255 for values in CIFAR10_STATISTICS)
    assert torch.equal(found, standardised(x, *statistics))
    assert data.val_dataloader() == []


# -- the task ----------------------------------------------------------------------------------------------------


def test_training_labels_are_noisy_and_the_same_in_search_and_training(data):
    arrays = read_arrays(data)
    noisy = noisy_labels(arrays, settings()).labels
    assert 0.15 < (noisy != arrays.train_y).float().mean() < 0.45
    label_of = {bytes(x.numpy().data): int(y) for x, y in zip(arrays.train_x, noisy, strict=True)}
    truth_of = {bytes(x.numpy().data): int(y) for x, y in zip(arrays.train_x, arrays.train_y, strict=True)}
    part, whole = (make_data(data, training)._splits for training in (settings(), settings(train_size=None)))
    assert (len(part["train"][1]), len(part["val"][1]), len(whole["train"][1])) == (64, 20, 70)
    assert torch.equal(part["val"][0], whole["val"][0])
    for x, y in (*zip(*part["train"], strict=True), *zip(*whole["train"], strict=True)):
        assert label_of[bytes(x.numpy().data)] == int(y)
    for x, y in zip(*part["val"], strict=True):
        assert truth_of[bytes(x.numpy().data)] == int(y)
    shared = {bytes(x.numpy().data) for x in part["train"][0]} & {bytes(x.numpy().data) for x in part["val"][0]}
    assert not shared


def test_the_reference_is_plain_training_bit_for_bit(data):
    training = settings()
    arrays = read_arrays(data)

    def fit(callbacks):
        with quiet_lightning():
            L.seed_everything(3, verbose=False)
            module = make_module(arrays.in_shape, arrays.num_classes, training)
            trainer = L.Trainer(**QUIET | training.trainer_kwargs(), callbacks=callbacks)
            trainer.fit(module, datamodule=make_data(data, training))
        return module

    law = LAWCallback(StrategyAgent(seed=0), keep="target")
    target, plain = fit([law]), fit([])
    assert digest(law.reference.state_dict()) == digest(plain.state_dict()) != digest(target.state_dict())


# -- the search --------------------------------------------------------------------------------------------------


def saved(folder):
    state = load_state(folder / "search" / "search.pt", "search")
    return digest(state), (folder / "search" / "metrics.csv").read_text()


@long
@pytest.mark.parametrize("pool", [0, 2])
def test_a_search_in_pieces_is_the_search_in_one(data, tmp_path, pool):
    plan = Plan(episodes=3, eval_every=2, eval_seeds=1, seed_pool=pool)
    assert "left: nothing" in search(data, tmp_path / "whole", settings(), plan, NO_END)
    parts = tmp_path / "parts"
    told = search(data, parts, settings(), plan, Asks(5 if pool else 4))  # in the evaluation after two episodes
    assert "search: 1 of 3 episodes" in told
    assert "left: 2 episodes" in told
    assert "search: 3 of 3" in search(data, parts, settings(), plan, NO_END)
    assert saved(parts) == saved(tmp_path / "whole")


@long
def test_a_search_may_grow(data, tmp_path):
    for episodes in (2, 3):
        search(data, tmp_path, settings(), Plan(episodes, eval_every=2, eval_seeds=1), NO_END)
    with (tmp_path / "search" / "metrics.csv").open(newline="") as file:
        assert [bool(row["gain"]) for row in csv.DictReader(file)] == [False, True, True]


def test_too_little_time_for_a_round_is_an_error(data, tmp_path):
    with pytest.raises(TooShortError, match="No round"):
        search(data, tmp_path, settings(), Plan(2, eval_seeds=1), Budget(1e-3))


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("time.time", lambda: self.now)


def test_a_round_that_would_not_end_is_not_begun(monkeypatch):
    clock = Clock(monkeypatch)
    plan = Plan(episodes=4, eval_every=2, eval_seeds=3)
    seeds = {episode: seed for seed, episode in plan.learning_seeds().items()}

    def begin(make, seed, takes):
        torch.manual_seed(seed)
        assert make() == "network"
        clock.now += takes

    make = InTime(lambda: "network", Budget(100), plan)
    begin(make, 1, 10)  # an evaluation's
    begin(make, seeds[0], 20)
    torch.manual_seed(seeds[1])
    assert make._forecast(1) == 2 * 10 + 3 * 10  # two networks, then three; the first episode is not timed yet
    begin(make, seeds[1], 19)  # 70 s are left, and 20 + 3 * 10 are needed
    begin(make, 1, 10)
    assert make.longest == {"evaluate": 10, "learn": 20}
    torch.manual_seed(seeds[2])
    clock.now += 21.5
    with pytest.raises(OutOfTimeError):  # 19.5 s are left of the 100
        make()


def test_where_evaluations_are_due():
    assert [Plan(5, eval_every=2).evaluated_after(e) for e in range(5)] == [False, True, False, True, True]
    assert [Plan(6, workers=2, eval_every=3).evaluated_after(e) for e in range(6)] == [False] * 2 + [True] * 4


# -- trainings ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strategy(tmp_path_factory):
    agent = StrategyAgent(seed=3)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in agent.actor.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("strategy") / "strategy.safetensors"
    agent.save(path)
    return path


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("seconds")
    return rows


def job_of(data, out, method, strategy, **changes):
    return Job(data, out, settings(), method, 1, strategy if method == "law" else None, **changes)


@pytest.mark.parametrize("method", ["base", "law"])
def test_a_training_in_pieces_is_the_training_in_one(data, tmp_path, strategy, method):
    assert "test accuracy" in train(job_of(data, tmp_path / "whole", method, strategy), NO_END)
    parts = job_of(data, tmp_path / "parts", method, strategy, save_every=1)
    assert "2 of 5 epochs" in train(parts, Asks(3))
    assert "4 of 5 epochs" in train(parts, Asks(2))
    assert "test accuracy" in train(parts, NO_END)
    assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")
    assert "done before" in train(parts, NO_END)
    assert not list((tmp_path / "parts" / "train").glob("*.ckpt"))


def test_a_training_that_ended_without_its_row_is_tested(data, tmp_path, strategy, monkeypatch):
    job = job_of(data, tmp_path, "law", strategy)
    train(job, NO_END)
    (expected,) = rows_of(tmp_path)
    (tmp_path / "results.jsonl").unlink()
    with monkeypatch.context() as patched:
        patched.setattr("table1.training.append_row", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            train(job, NO_END)
    assert (tmp_path / "train" / "law_1.ckpt").is_file()
    train(job, NO_END)
    assert rows_of(tmp_path) == [expected]


def test_base_and_law_differ_and_base_is_plain_training(data, tmp_path, strategy):
    for method in ("base", "law"):
        train(job_of(data, tmp_path, method, strategy), NO_END)
    base, law = rows_of(tmp_path)
    assert base["weights"] != law["weights"]
    training = settings()
    arrays = read_arrays(data)
    with quiet_lightning():
        L.seed_everything(1, verbose=False)
        module = make_module(arrays.in_shape, arrays.num_classes, training)
        trainer = L.Trainer(**QUIET | training.trainer_kwargs(), limit_val_batches=0)
        trainer.fit(module, datamodule=make_data(data, training))
    right = [(module.eval()(x).argmax(1) == y).float() for x, y in make_data(data, training).test_dataloader()]
    assert base["accuracy"] == pytest.approx(float(torch.cat(right).mean()))
    assert base["weights"] == digest([*module.parameters(), *module.buffers()])[:16]


def test_without_time_nothing_is_begun(data, tmp_path, strategy):
    assert "not begun" in train(job_of(data, tmp_path, "base", strategy), Asks(1))


def test_the_strategy_of_the_first_training_stays(tmp_path):
    found = tmp_path / "search" / "strategy.safetensors"
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match="search first"):
        freeze_strategy(tmp_path / "train", None)
    found.parent.mkdir()
    found.write_bytes(b"first")
    assert freeze_strategy(tmp_path / "train", None).read_bytes() == b"first"
    found.write_bytes(b"second")
    assert freeze_strategy(tmp_path / "train", None).read_bytes() == b"first"
    with pytest.raises(ValueError, match="another strategy"):
        freeze_strategy(tmp_path / "train", found)


# -- folder and report -------------------------------------------------------------------------------------------


def test_other_settings_are_refused_by_name(tmp_path):
    path = tmp_path / "settings.json"
    first = check_settings(path, {"epochs": 5, "lr": 0.1})
    assert check_settings(path, {"lr": 0.1, "epochs": 5}) == first
    with pytest.raises(ValueError, match="epochs 5, not 6"):
        check_settings(path, {"epochs": 6, "lr": 0.1})


def row(method, seed, accuracy, **changes):
    strategy = "s" if method == "law" else None
    return {"method": method, "seed": seed, "accuracy": accuracy, "settings": "x", "strategy": strategy} | changes


def test_the_reports_numbers_are_numpys():
    base, law = np.array([0.70, 0.72, 0.69, 0.9]), np.array([0.77, 0.80, 0.74])
    rows = [row("base", i, a) for i, a in enumerate(base)] + [row("law", i, a) for i, a in enumerate(law)]
    difference = 100 * (law - base[:3])
    half = stats.t.ppf(0.975, 2) * difference.std(ddof=1) / 3**0.5
    _, _, first, second = table(rows).splitlines()
    assert first.split() == ["base", "4", f"{100 * base.mean():.2f}", f"{100 * base.std(ddof=1):.2f}"]
    mean = difference.mean()
    assert second.split() == [
        "law", "3", "77.00", f"{100 * law.std(ddof=1):.2f}", f"{mean:+.2f}",
        f"[{mean - half:+.2f},", f"{mean + half:+.2f}]", "+6.9",
    ]  # fmt: skip


def test_the_report_says_what_it_cannot(monkeypatch):
    rows = [row("base", 0, 0.7), row("law", 0, 0.75)]
    assert "one seed" in table(rows)
    monkeypatch.setitem(sys.modules, "law_lightning.report.compare", None)
    rows += [row("base", 1, 0.7), row("law", 1, 0.76)]
    assert "needs scipy" in table(rows)
    assert "+5.50" in table(rows)
    with pytest.raises(ValueError, match="train first"):
        table([])
    for other in ({"settings": "y"}, {"strategy": "t"}):
        with pytest.raises(ValueError, match="do not compare"):
            table([*rows, row("law", 2, 0.7, **other)])


# -- the command line --------------------------------------------------------------------------------------------


def test_the_commands(data, tmp_path, capsys):
    given = ["--data", str(data), "--out", str(tmp_path), "--network", "small", "--accelerator", "cpu"]
    given += ["--val-size", "20"]
    episode = ["--search-size", "64", "--search-epochs", "5", "--search-batch-size", "16"]
    episode += ["--episodes", "1", "--eval-seeds", "1"]
    training = ["--train-size", "64", "--epochs", "5", "--batch-size", "16"]
    gpu_table1.main(["time", *given, *episode, *training, "--steps", "20", "--budget", "100"])
    gpu_table1.main(["search", *given, *episode, "--budget", "500"])
    for method in ("base", "law"):
        gpu_table1.main(["train", *given, *training, "--method", method, "--seed", "0", "1"])
    gpu_table1.main(["report", *given])
    told = capsys.readouterr().out
    for expected in ("s an episode", "left: nothing", "law_1: test accuracy", "minus base"):
        assert expected in told
    with pytest.raises(SystemExit, match="epochs 5, not 6"):
        gpu_table1.main(["train", *given, *training, "--epochs", "6", "--method", "base"])


@pytest.mark.parametrize(
    ("change", "message"),
    [(["--data", "none.npz"], "no data file"), (["--search-size", "80"], "too few"), (["--noise", "2"], "2.0")],
)
def test_errors_are_one_line(data, tmp_path, change, message):
    given = ["--data", str(data), "--out", str(tmp_path), "--network", "small", "--val-size", "20", *change]
    with pytest.raises(SystemExit, match=message):
        gpu_table1.main(["search", *given, "--accelerator", "cpu"])


def test_how_many_episodes_fit():
    costs = Costs(episode=40, single=20, base=400, law=420)
    plan = Plan(100, workers=2, eval_every=10, eval_seeds=4)
    assert costs.episodes_in(600, plan) == (600 * 2 - 2 * 4 * 20) // (40 + 8)
    assert costs.episodes_in(10, plan) == 0
