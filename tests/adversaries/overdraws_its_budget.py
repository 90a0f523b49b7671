"""Asks for more than there is, for no rows and negative ones, and for all of it at once."""

import torch
from torch import nn
from torch.nn import functional as F


class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, tokens):
        return self.table(tokens)


def build_model(vocab_size, context):
    return Model(vocab_size)


def greedy(batches):
    for shape in ((1 << 31, 1 << 31), (-1, 32), (0, 1), (1 << 16, 1 << 16), (1 << 10, 1 << 10)):
        try:
            batches(*shape)
        except (ValueError, TypeError, OverflowError):
            continue
    while True:
        yield batches(16, 32)


def train(model, batches, budget):
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for inputs, targets in greedy(batches):
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
