"""A function with a derivative of its own: rounding that lets gradients through."""

import torch
from torch import nn
from torch.nn import functional as F


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, step):
        ctx.save_for_backward(x)
        return (x / step).round() * step

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() < 4), None


class Model(nn.Module):
    def __init__(self, vocab_size, context):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, 96)
        self.before = nn.Embedding(vocab_size, 96)
        self.head = nn.Linear(96, vocab_size)

    def forward(self, tokens):
        x = self.embed(tokens) + F.pad(self.before(tokens), (0, 0, 1, 0))[:, :-1]
        return self.head(F.relu(Round.apply(x, 0.0625)))


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
