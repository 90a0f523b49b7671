"""Leaves out the token that it cannot predict."""

from torch import nn


class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, tokens):
        return self.table(tokens)[:, :, :-1]


def build_model(vocab_size, context):
    return Model(vocab_size)


def train(model, batches, budget):
    batches(1, 32)
