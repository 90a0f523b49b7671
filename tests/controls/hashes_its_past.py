"""No attention at all: tables of hashed runs of two and three bytes, added up."""

import torch
from torch import nn
from torch.nn import functional as F


class Model(nn.Module):
    def __init__(self, vocab_size, context):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, vocab_size) for size in (256, 499, 997))
        for table in self.tables:
            nn.init.zeros_(table.weight)

    def forward(self, tokens):
        key, logits = torch.zeros_like(tokens), 0.0
        for back, table in enumerate(self.tables):
            key = key * 1_000_003 + F.pad(tokens, (back, 0))[:, : tokens.size(1)] * 31 + back
            logits = logits + table(key % table.num_embeddings)
        return logits


def build_model(vocab_size, context):
    return Model(vocab_size, context)


def train(model, batches, budget):
    optimiser = torch.optim.Adagrad(model.parameters(), lr=0.3)
    while True:
        inputs, targets = batches(8, 64)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
