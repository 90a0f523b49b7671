"""Batch norm: statistics of the batch while it trains, running ones afterwards."""

import torch
from torch import nn
from torch.nn import functional as F


class Model(nn.Module):
    def __init__(self, vocab_size, context):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, 96)
        self.before = nn.Embedding(vocab_size, 96)
        self.norm = nn.BatchNorm1d(96, momentum=0.2)
        self.head = nn.Linear(96, vocab_size)

    def forward(self, tokens):
        x = self.embed(tokens) + F.pad(self.before(tokens), (0, 0, 1, 0))[:, :-1]
        return self.head(F.relu(self.norm(x.transpose(1, 2)).transpose(1, 2)))


def build_model(vocab_size, context):
    return Model(vocab_size, context)


def train(model, batches, budget):
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.004)
    while True:
        inputs, targets = batches(8, 64)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
