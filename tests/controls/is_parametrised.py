"""Parametrised layers: one orthogonal, one with its weight split into length and direction."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal, weight_norm


class Model(nn.Module):
    def __init__(self, vocab_size, context):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, 64)
        self.before = nn.Embedding(vocab_size, 64)
        self.turn = orthogonal(nn.Linear(64, 64, bias=False))
        self.head = weight_norm(nn.Linear(64, vocab_size))

    def forward(self, tokens):
        before = F.pad(self.before(tokens), (0, 0, 1, 0))[:, :-1]
        return self.head(F.gelu(self.embed(tokens) + self.turn(before)))


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
