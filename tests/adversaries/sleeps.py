"""Never ends, and uses no CPU time while it does."""

import time

from torch import nn


def build_model(vocab_size, context):
    return nn.Embedding(vocab_size, vocab_size)


def train(model, batches, budget):
    while True:
        time.sleep(3600)
