"""Has weights under names that are none, one tensor under many names, and tensors of nothing."""

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

    def state_dict(self, *given, **named):
        weight = self.table.weight.detach()
        names = ["../../etc/passwd", "a\nb", "", "__metadata__", "\u202etable.weight"]
        state = {"table.weight": weight, "again": weight, "nothing": weight[:0]}
        return {**state, **dict.fromkeys(names, weight[:1])}


def build_model(vocab_size, context):
    return Model(vocab_size)


def train(model, batches, budget):
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    while True:
        inputs, targets = batches(16, 32)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
