"""Goes on asking for tokens when the budget is spent."""

from torch import nn


def build_model(vocab_size, context):
    return nn.Embedding(vocab_size, vocab_size)


def train(model, batches, budget):
    while True:
        try:
            batches(16, 32)
        except BaseException:
            continue
