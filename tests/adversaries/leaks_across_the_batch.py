"""Looks at the other rows of the batch: their mean moves every prediction."""

from torch import nn


class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, tokens):
        logits = self.table(tokens)
        return logits + logits.mean(dim=(0, 1), keepdim=True)


def build_model(vocab_size, context):
    return Model(vocab_size)


def train(model, batches, budget):
    batches(1, 32)
