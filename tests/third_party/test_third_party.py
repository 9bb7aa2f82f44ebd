"""Models and losses of other packages, each trained as its users write it. ``nox -s third_party`` installs them."""

import sys

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader

import zoo
from law_lightning import LAWCallback, WeightingCallback, weighted
from methods import bold_agent
from zoo import CLASSES, assert_identical, differ


class Base(L.LightningModule):
    """Its losses are those of validation as well; a subclass names the package that it needs."""

    package: str

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), batch_size=1)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def torch_loaders(samples):
    """Five steps an epoch, the last of which has a smaller batch."""
    return DataLoader(samples[:18], batch_size=4, shuffle=True), DataLoader(samples[18:], batch_size=4)


class Bert(Base):
    """Batches are dicts, and the model computes the loss."""

    package = "transformers"

    def __init__(self):
        from transformers import BertConfig, BertForSequenceClassification

        super().__init__()
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = BertConfig(vocab_size=20, max_position_embeddings=8, num_labels=CLASSES, **sizes)
        self.model = BertForSequenceClassification(config)

    def loss(self, batch):
        return self.model(**batch).loss

    @staticmethod
    def data():
        texts, lengths = torch.randint(20, (26, 8)), torch.randint(3, 9, (26, 1))
        masks, labels = torch.arange(8) < lengths, torch.randint(CLASSES, (26,))
        rows = zip(texts, masks.long(), labels, strict=True)
        return torch_loaders([dict(zip(("input_ids", "attention_mask", "labels"), row, strict=True)) for row in rows])


def images(*shape):
    """Pairs of an image of 32 x 32 and its target of this shape."""
    return torch_loaders([(torch.randn(3, 32, 32), torch.randint(CLASSES, shape)) for _ in range(26)])


class Timm(Base):
    """The package's loss, which has a mean alone, sample by sample."""

    package = "timm"

    def __init__(self):
        import timm
        from timm.loss import LabelSmoothingCrossEntropy

        super().__init__()
        self.model = timm.create_model("test_resnet", num_classes=CLASSES, pretrained=False, drop_rate=0.1)
        self.criterion = LabelSmoothingCrossEntropy(0.1)

    def loss(self, batch):
        x, y = batch
        logits = self.model(x)
        return weighted(torch.vmap(self.criterion)(logits.unsqueeze(1), y.unsqueeze(1)), logits, y).mean()

    data = staticmethod(images)


class TimmMixup(Timm):
    """Mixup changes the images in place by NumPy's randomness, and gives class probabilities."""

    def __init__(self):
        from timm.data import Mixup
        from timm.loss import SoftTargetCrossEntropy

        super().__init__()
        self.criterion = SoftTargetCrossEntropy()
        self.mixup = Mixup(cutmix_alpha=1.0, num_classes=CLASSES)

    def training_step(self, batch, batch_idx):
        return self.loss(self.mixup(*batch))

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.model(batch[0]), batch[1]))

    @staticmethod
    def data():
        loader, validation = images()
        return DataLoader(loader.dataset, batch_size=4, shuffle=True, drop_last=True), validation  # it wants even ones


class Unet(Base):
    """A class for each pixel."""

    package = "segmentation_models_pytorch"

    def __init__(self):
        import segmentation_models_pytorch as smp

        super().__init__()
        decoder = {"encoder_depth": 3, "decoder_channels": (16, 8, 8)}
        self.model = smp.Unet("tu-test_resnet", encoder_weights=None, classes=CLASSES, **decoder)

    def loss(self, batch):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    @staticmethod
    def data():
        return images(32, 32)


class Gcn(Base):
    """A class for each graph; a batch is one large graph."""

    package = "torch_geometric"

    def __init__(self):
        from torch_geometric.nn import GCNConv, global_mean_pool

        super().__init__()
        self.conv, self.pool, self.head = GCNConv(5, 16), global_mean_pool, torch.nn.Linear(16, CLASSES)

    def loss(self, batch):
        hidden = F.dropout(self.conv(batch.x, batch.edge_index).relu(), 0.2, self.training)
        return F.cross_entropy(self.head(self.pool(hidden, batch.batch)), batch.y)

    @staticmethod
    def data():
        from torch_geometric.data import Data
        from torch_geometric.loader import DataLoader as GraphLoader

        sizes = torch.randint(3, 8, (26,)).tolist()
        graphs = [
            Data(torch.randn(nodes, 5), torch.randint(nodes, (2, 2 * nodes)), y=torch.randint(CLASSES, (1,)))
            for nodes in sizes
        ]
        return GraphLoader(graphs[:18], batch_size=4, shuffle=True), GraphLoader(graphs[18:], batch_size=4)


@pytest.fixture(params=[Bert, Timm, TimmMixup, Unet, Gcn], ids=lambda module: module.__name__)
def module(request):
    pytest.importorskip(request.param.package)
    return request.param


def fit(module, *callbacks, **kwargs):
    return zoo.fit(module, callbacks, data=module.data, **{"max_epochs": 2} | kwargs)


def test_the_reference_is_plain_training(module):
    law = LAWCallback(bold_agent(), keep="target")
    target, plain = fit(module, law), fit(module)
    assert_identical(law.reference.state_dict(), plain.state_dict())
    assert differ(target.state_dict(), plain.state_dict())
    assert [record["stage"] for record in law.history] == [0, 1, 2, 3, 4]


def zeros(samples, phase):
    return torch.zeros_like(samples.loss)


def twos(samples, phase):
    return torch.full_like(samples.loss, 2.0)


WEIGHTINGS = pytest.mark.parametrize(("weighting", "factor"), [(zeros, 0.0), (twos, 2.0)], ids=["zeros", "twos"])


def gradient(trained):
    """What the last step left, [number of parameters that it reached]."""
    return torch.cat([p.grad.flatten() for p in trained.parameters() if p.grad is not None])


def assert_scaled(found, plain, factor):
    assert plain.norm() > 0
    assert float(found.norm() / plain.norm()) == pytest.approx(factor, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(found, factor * plain, rtol=1e-4, atol=1e-6 * float(plain.norm()))


@WEIGHTINGS
def test_weights_scale_the_first_gradient(module, weighting, factor):
    one = {"max_epochs": -1, "max_steps": 1, "limit_val_batches": 0}
    found = gradient(fit(module, WeightingCallback(weighting, num_stages=1), **one))
    assert_scaled(found, gradient(fit(module, **one)), factor)


# -- LightningCLI: tests/callbacks/test_lightning_cli.py has what it builds, this how that trains ------------------


class Blobs(L.LightningDataModule):
    def train_dataloader(self):
        return zoo.loaders()[0]

    def val_dataloader(self):
        return zoo.loaders()[1]


@pytest.fixture
def by_cli(monkeypatch):
    """What ``program fit`` with these options of the Trainer leaves."""
    pytest.importorskip("jsonargparse")
    quiet = ["logger=false", "enable_checkpointing=false", "enable_progress_bar=false", "enable_model_summary=false"]

    def program(*options):
        arguments = [f"--trainer.{each}" for each in ("accelerator=cpu", *quiet, *options)]
        monkeypatch.setattr(sys, "argv", ["program", "fit", *arguments])
        return LightningCLI(zoo.DropoutMLP, Blobs, seed_everything_default=3, save_config_callback=None)

    return program


def with_callback(name, *options):
    return [f"callbacks=law_lightning.{name}", *(f"callbacks.{each}" for each in options)]


def test_the_reference_of_a_program_is_plain_training(by_cli):
    agent = ["agent=law_lightning.StrategyAgent", "agent.num_stages=5", "agent.warmup_stages=1"]
    law = with_callback("LAWCallback", *agent, "agent.episode_noise=2.0", "keep=target")
    plain, weighting = by_cli("max_epochs=2"), by_cli("max_epochs=2", *law)
    callback = next(each for each in weighting.trainer.callbacks if isinstance(each, LAWCallback))
    assert_identical(callback.reference.state_dict(), plain.model.state_dict())
    assert differ(weighting.model.state_dict(), plain.model.state_dict())


@WEIGHTINGS
def test_weights_scale_the_first_gradient_of_a_program(by_cli, weighting, factor):
    path = f"weighting={__name__}.{weighting.__name__}"
    one = ["max_steps=1", "limit_val_batches=0"]
    found = by_cli(*one, *with_callback("WeightingCallback", path, "num_stages=1"))
    assert_scaled(gradient(found.model), gradient(by_cli(*one).model), factor)
