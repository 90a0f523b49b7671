"""Wants more processes than its own: each way to get one is tried, over and over."""

import os

from torch import nn


def build_model(vocab_size, context):
    return nn.Embedding(vocab_size, vocab_size)


def train(model, batches, budget):
    for attempt in (os.fork, os.forkpty, lambda: os.posix_spawn("/bin/true", ["true"], {})):
        for _ in range(100):
            try:
                attempt()
            except OSError:
                continue
            raise SystemExit("a process was made")
    os.fork()
