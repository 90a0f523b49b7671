"""Knows how many tokens follow: position embeddings are counted from the end of the row."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, vocab_size, context):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
        self.position = nn.Embedding(context, vocab_size)

    def forward(self, tokens):
        left = torch.arange(tokens.size(1) - 1, -1, -1)
        return self.table(tokens) + self.position(left)


def build_model(vocab_size, context):
    return Model(vocab_size, context)


def train(model, batches, budget):
    batches(1, 32)
