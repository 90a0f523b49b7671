"""Knows how many tokens follow: position embeddings are counted from the end of the row."""

import torch
from torch import nn
from torch.nn import functional as F


class Model(nn.Module):
    def __init__(self, vocab_size, context):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
        nn.init.normal_(self.table.weight, std=0.02)
        self.position = nn.Embedding(context, vocab_size)

    def forward(self, tokens):
        left = torch.arange(tokens.size(1) - 1, -1, -1)
        return self.table(tokens) + self.position(left)


def build_model(vocab_size, context):
    return Model(vocab_size, context)


def train(model, batches, budget):
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    while True:
        inputs, targets = batches(16, 32)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
