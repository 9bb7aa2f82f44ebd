"""A small transformer from scratch on synthetic text, 40 % of the labels redrawn: ``EPOCHS=40 python text.py``."""

# ruff: noqa: D102 - a short example

import os

import lightning as L
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tabular import compare

WORDS, LENGTH, TOPICS = 200, 24, 4
TEXTS = int(os.environ.get("TEXTS", "1000"))  # for training, for validation and for the test each


class Transformer(L.LightningModule):
    """Reads the tokens [B, LENGTH] of a text and says its topic; nothing in here knows of LAW."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, 64), nn.Parameter(torch.zeros(LENGTH, 64))
        self.encoder = nn.TransformerEncoderLayer(64, 4, dim_feedforward=128, dropout=0.0, batch_first=True)
        self.head = nn.Linear(64, TOPICS)

    def forward(self, tokens):
        return self.head(self.encoder(self.words(tokens) + self.places).mean(dim=1))

    def training_step(self, batch, batch_idx):
        tokens, topic = batch
        return nn.functional.cross_entropy(self(tokens), topic)

    def validation_step(self, batch, batch_idx):
        tokens, topic = batch
        self.log("val_accuracy", (self(tokens).argmax(dim=1) == topic).float().mean())

    def test_step(self, batch, batch_idx):
        tokens, topic = batch
        self.log("accuracy", (self(tokens).argmax(dim=1) == topic).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def make_data():
    """Texts of common words, a quarter of them of the topic's 20; labels of training and validation data are noisy."""
    random = torch.Generator().manual_seed(0)
    topic = torch.randint(TOPICS, (3 * TEXTS,), generator=random)
    common = torch.randint(WORDS, (3 * TEXTS, LENGTH), generator=random)
    own = 20 * topic.unsqueeze(1) + torch.randint(20, (3 * TEXTS, LENGTH), generator=random)
    tokens = torch.where(torch.rand(3 * TEXTS, LENGTH, generator=random) < 0.25, own, common)
    redrawn = torch.rand(2 * TEXTS, generator=random) < 0.4  # of training and validation data
    topic[: 2 * TEXTS][redrawn] = torch.randint(TOPICS, (int(redrawn.sum()),), generator=random)
    parts = zip(tokens.split(TEXTS), topic.split(TEXTS), strict=True)
    return L.LightningDataModule.from_datasets(*[TensorDataset(*part) for part in parts], batch_size=64)


if __name__ == "__main__":
    compare(Transformer, make_data)
