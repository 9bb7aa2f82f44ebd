"""A module and a data module of the user's own, by their names."""

import sys

import pytest
from omegaconf import OmegaConf

from law_lightning.cli import compare, search, train
from run_folders import rows

OWN = """
import lightning as L
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from law_lightning.models import ImageClassifier


class Bare(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def evaluate(self, batch, name):
        x, y = batch
        logits = self.net(x)
        F.cross_entropy(logits, y)
        self.log(name, (logits.argmax(1) == y).float().mean())

    def validation_step(self, batch, batch_idx):
        self.evaluate(batch, "val/acc")

    def test_step(self, batch, batch_idx):
        self.evaluate(batch, "test/acc")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Defaults(Bare):
    def __init__(self, lr=0.03, milestones=(), network="small"):
        super().__init__()
        assert (lr, milestones, network) == (0.03, (), "small")


class Options(Bare):
    def __init__(self, **options):
        super().__init__()
        assert options == {"width": 3, "lr": 0.1}


class Required(Bare):
    def __init__(self, network, lr, num_classes, momentum=0.5):
        super().__init__()
        assert (lr, num_classes, momentum) == (0.1, 10, 0.5)
        self.net = network


class Keywords(ImageClassifier):
    def __init__(self, network, *, own=1, **options):
        super().__init__(network, **options)
        assert options["milestones"] == [0.65, 0.85]


class Names(Bare):
    def validation_step(self, batch, batch_idx):
        self.evaluate(batch, "val_acc")

    def test_step(self, batch, batch_idx):
        self.evaluate(batch, "accuracy")


class Broken(Bare):
    def training_step(self, batch, batch_idx):
        return len(batch_idx)


class Signature(Bare):
    def training_step(self, batch, batch_idx, extra):
        pass


class Constructor(Bare):
    def __init__(self, width):
        super().__init__()
        raise TypeError(f"no {width}")


class Data(L.LightningDataModule):
    def loader(self, seed):
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(60, 1, 8, 8, generator=generator), torch.arange(60) % 7
        return DataLoader(TensorDataset(x, y), 20)

    def train_dataloader(self):
        return self.loader(0)

    def val_dataloader(self):
        return self.loader(1)

    def test_dataloader(self):
        return self.loader(2)


class Sized(Data):
    def __init__(self, batch_size=20, root="here", **options):
        super().__init__()
        assert (batch_size, root, options) == (20, "here", {})


class Dicts(Data):
    def train_dataloader(self):
        return [{"image": x} for x in torch.zeros(3, 2, 1, 8, 8)]
"""


@pytest.fixture
def train_own(command, tmp_path, monkeypatch):
    """Runs law-train with a file ``own.py`` in the current folder."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own", raising=False)
    logging = ["hydra/job_logging=none", "hydra/hydra_logging=none"]

    def call(*overrides, program=train, epochs=1):
        options = [f"trainer.max_epochs={epochs}", "trainer.accelerator=cpu", *logging, "run_dir=run"]
        return command(program.main, *options, *overrides)

    yield call
    sys.modules.pop("own", None)


@pytest.mark.parametrize(
    "overrides",
    [
        "model._target_=own.Bare",
        "model._target_=own.Defaults schedule=table5",
        "model._target_=own.Options model.lr=0.1 +model.width=3",
        "model._target_=own.Required",
        "model._target_=own.Keywords schedule=table5 model.network.hidden=[4]",
        "data._target_=own.Data model.network.hidden=[4]",
        "data._target_=own.Data model.network.hidden=[4] corruption=none",
        "~data +data={_target_:own.Data} logger=csv",
        "~model +model={_target_:own.Bare} data=arrays data._target_=own.Sized",
    ],
)
def test_it_is_called_with_what_the_user_sets_and_it_requires(train_own, tmp_path, overrides):
    epochs = 2 if "schedule" in overrides else 1
    assert "Test accuracy, last epoch:" in train_own(*overrides.split(), f"trainer.max_epochs={epochs}")
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    if config.model._target_ == "own.Bare":
        assert list(config.model) == ["_target_"]


def test_its_metrics_may_have_other_names(train_own, tmp_path):
    own = ["model._target_=own.Names", "data._target_=own.Data"]
    with pytest.raises(
        SystemExit, match=r"Names logs \['val_acc'\].* need 'val/acc' from validation_step.*val_metric=NAME"
    ):
        train_own(*own)
    with pytest.raises(
        SystemExit, match=r"Names logs \['accuracy'\].* need 'test/acc' from test_step.*test_metric=NAME"
    ):
        train_own(*own, "val_metric=val_acc")
    own += ["val_metric=val_acc", "test_metric=accuracy"]
    assert "best epoch by validation" in train_own(*own)
    train_own(*own, "seeds=2", "methods=[base]", "run_dir=both", program=compare)
    assert all(row["acc_best"] for row in rows(tmp_path / "both" / "compare.csv"))


def test_a_search_takes_both(train_own, tmp_path):
    options = ["agent.num_stages=3", "search.episodes=1", "search.eval_seeds=1", "search.check_seeds=0"]
    train_own("model._target_=own.Bare", "data._target_=own.Data", "search.progress=false", *options, program=search)
    assert (tmp_path / "run" / "strategy.safetensors").is_file()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            "model._target_=own.Broken",
            r"TypeError: object of type 'int' has no len\(\) \(own\.py, line \d+, in training_",
        ),
        ("model._target_=own.Signature", r"TypeError: Signature\.training_step\(\) missing 1 required .* 'extra'"),
        ("model._target_=own.Constructor", r"TypeError: .*missing 1 required positional argument: 'width'"),
        ("model._target_=own.Constructor +model.width=3", r"TypeError: no 3 \(own\.py, line \d+, in __init__\)"),
        ("model._target_=own.Bare +model.width=3", r"own\.Bare takes no width \(it takes nothing\).* ~model\.width"),
        (
            "model._target_=own.Required model.gamma=2",
            r"takes no gamma \(it takes network, lr, num_classes, momentum\)",
        ),
        ("data._target_=own.Data corruption.rate=0.4", r"own\.Data takes no corruption .* ~data\.corruption"),
        ("data._target_=own.Data corruption=discard", r"own\.Data takes no corruption .* ~data\.corruption"),
        ("model._target_=own.Nothing", r"There is no own\.Nothing: check the name"),
        ("data._target_=nowhere.Data", r"There is no nowhere\.Data: check the name"),
        ("data._target_=own.Dicts", r"Dicts has no in_shape and num_classes, .*\+model\.network\.num_classes"),
    ],
)
def test_its_errors_are_one_line(train_own, overrides, message):
    with pytest.raises(SystemExit, match=f"^law-train: .*{message}") as caught:
        train_own(*overrides.split())
    assert "\n" not in str(caught.value)
