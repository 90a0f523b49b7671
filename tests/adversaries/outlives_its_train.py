"""Leaves a thread, a destructor and an exit handler behind that go on training."""

import atexit
import threading

import torch
from torch import nn
from torch.nn import functional as F


class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, tokens):
        return self.table(tokens)


def build_model(vocab_size, context):
    return Model(vocab_size)


class Later:
    def __init__(self, work):
        self.work = work

    def __del__(self):
        self.work()


def train(model, batches, budget):
    rows = [batches(16, 32) for _ in range(20)]

    def work():
        optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
        for step in range(20 * len(rows)):
            inputs, targets = rows[step % len(rows)]
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    atexit.register(work)
    model.later = [Later(work)]
    threading.Thread(target=work, daemon=True).start()
