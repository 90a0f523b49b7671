"""Its own optimiser: steps by the sign of a mixed momentum, with decay of the weights."""

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


class Signs:
    def __init__(self, parameters, lr):
        self.parameters, self.lr = list(parameters), lr
        self.means = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, scale):
        for parameter, mean in zip(self.parameters, self.means, strict=True):
            update = mean.lerp(parameter.grad, 0.1).sign()
            parameter.mul_(1 - 0.1 * self.lr * scale).sub_(update, alpha=self.lr * scale)
            mean.lerp_(parameter.grad, 0.01)


def build_model(vocab_size, context):
    return Model(vocab_size, context)


def train(model, batches, budget):
    optimiser = Signs(model.parameters(), 0.005)
    while True:
        scale = 1 - budget.progress
        inputs, targets = batches(8, 64)
        model.zero_grad()
        F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
        optimiser.step(scale)
