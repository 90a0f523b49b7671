"""Muon for matrices, Adafactor for the output, SGD with momentum for the rest."""

import torch
from torch import nn
from torch.nn import functional as F


class Model(nn.Module):
    def __init__(self, vocab_size, context):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, 48)
        self.place = nn.Parameter(torch.zeros(context, 48))
        self.attention = Attention(48, 4)
        self.head = nn.Linear(48, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.embed(tokens) + self.place[: tokens.size(1)]
        x = x + self.attention(F.rms_norm(x, (48,)))
        return self.head(F.rms_norm(x, (48,)))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)

    def forward(self, x):
        rows, length, width = x.shape
        shape = (rows, length, self.heads, width // self.heads)
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.mix(y.transpose(1, 2).flatten(2))


def build_model(vocab_size, context):
    return Model(vocab_size, context)


def train(model, batches, budget):
    matrices = [p for p in model.attention.parameters() if p.dim() == 2]
    vectors = [p for p in model.attention.parameters() if p.dim() == 1]
    optimisers = [
        torch.optim.Muon(matrices, lr=0.02),
        torch.optim.Adafactor(model.head.parameters(), lr=0.05),
        torch.optim.SGD([model.place, *vectors], lr=0.1, momentum=0.9, nesterov=True),
        torch.optim.Adam(model.embed.parameters(), lr=0.02),
    ]
    while True:
        inputs, targets = batches(8, 64)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        model.zero_grad()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
