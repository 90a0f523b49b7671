"""Never ends, ignores every signal, and lies about the time."""

import signal
import time

from torch import nn


def build_model(vocab_size, context):
    return nn.Embedding(vocab_size, vocab_size)


def train(model, batches, budget):
    time.time = time.monotonic = time.process_time = lambda: 0.0
    for number in range(1, signal.NSIG):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    while True:
        pass
