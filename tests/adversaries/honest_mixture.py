"""Honest: a table of pairs and a small net that corrects it. A twin for those who find text."""

import torch
from torch import nn
from torch.nn import functional as F


class Model(nn.Module):
    """A table of pairs, and a net over the last four bytes that corrects it."""

    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
        self.embed = nn.Embedding(vocab_size, 4 * 192)
        self.out = nn.Linear(192, vocab_size)
        nn.init.zeros_(self.table.weight)
        nn.init.normal_(self.embed.weight, std=0.2)
        nn.init.zeros_(self.out.weight)

    def forward(self, tokens):
        length = tokens.size(1)
        parts = self.embed(tokens).chunk(4, dim=2)
        mixed = sum(F.pad(part, (0, 0, back, 0))[:, :length] for back, part in enumerate(parts))
        return self.table(tokens) + self.out(F.relu(mixed))


def build_model(vocab_size, context):
    return Model(vocab_size)


def train(model, batches, budget):
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    while True:
        inputs, targets = batches(8, 32)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        for group in optimiser.param_groups:
            group["lr"] = 0.02 * (1 - 0.9 * budget.progress)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
