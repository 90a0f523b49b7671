"""Its own order of data: keeps a pool of rows, shuffles it, and sees each row twice."""

import torch
from torch import nn
from torch.nn import functional as F


class Model(nn.Module):
    def __init__(self, vocab_size, context):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, 3 * 64)
        nn.init.normal_(self.embed.weight, std=0.3)
        self.head = nn.Linear(64, vocab_size)

    def forward(self, tokens):
        parts = self.embed(tokens).chunk(3, dim=2)
        x = sum(F.pad(p, (0, 0, k, 0))[:, : tokens.size(1)] for k, p in enumerate(parts))
        return self.head(F.gelu(x))


def build_model(vocab_size, context):
    return Model(vocab_size, context)


def train(model, batches, budget):
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    drawing = True
    while drawing:
        pool = []
        try:
            while len(pool) < 8:
                pool.append(torch.stack(batches(16, 32)))
        except BudgetSpent:  # noqa: F821, a built-in name here
            drawing = False
        if not pool:
            return
        rows = torch.cat(pool, dim=1)
        for order in (torch.randperm(rows.size(1)), torch.randperm(rows.size(1))):
            for chosen in order.split(16):
                inputs, targets = rows[:, chosen]
                loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
